"""Which version is loaded next: bare numbers, no clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_service.policy.pursuit import LONGEST_PAUSE_S, Pursuit, PursuitSnapshot


def test_the_newest_wanted_version_is_taken_and_those_between_are_skipped():
    pursuit = Pursuit()
    pursuit.on_channel([1], now=0.0)
    assert pursuit.take_version(now=0.0) == 1
    pursuit.on_channel([1, 2], now=0.1)
    pursuit.on_channel([1, 2, 3], now=0.2)
    assert pursuit.take_version(now=0.3) is None, "one load at a time"
    assert pursuit.may_flip(1), "a fast publisher must not starve the replica"
    pursuit.on_serving(1, now=0.4)
    assert pursuit.take_version(now=0.4) == 3
    pursuit.on_serving(3, now=0.5)
    assert pursuit.take_version(now=0.5) is None
    assert pursuit.snapshot() == PursuitSnapshot(3, 3, None)


def test_a_version_rolled_back_while_it_loads_may_not_flip():
    pursuit = Pursuit()
    pursuit.on_channel([1, 2], now=0.0)
    assert pursuit.take_version(now=0.0) == 2
    pursuit.on_channel([1, 2, 1], now=0.1)
    assert not pursuit.may_flip(2)
    pursuit.on_set_aside()
    assert pursuit.take_version(now=0.2) == 1


def test_a_refused_version_is_not_tried_again_until_the_channel_moves():
    pursuit = Pursuit()
    pursuit.on_channel([1], now=0.0)
    pursuit.take_version(now=0.0)
    pursuit.on_serving(1, now=0.0)
    pursuit.on_channel([1, 2], now=1.0)
    assert pursuit.take_version(now=1.0) == 2
    pursuit.on_failed(2, permanent=True, now=1.0)
    assert pursuit.take_version(now=1e9) is None
    assert pursuit.next_wakeup() is None
    assert pursuit.snapshot().behind_since == 1.0
    pursuit.on_channel([1, 2, 3], now=2.0)
    assert pursuit.take_version(now=2.0) == 3
    pursuit.on_channel([1, 2, 3, 2], now=3.0)
    pursuit.on_serving(3, now=3.0)
    assert pursuit.take_version(now=3.0) == 2, "the channel moved to it again: one more try"


def test_a_load_that_failed_on_the_way_is_repeated_with_growing_pauses():
    pursuit = Pursuit()
    pursuit.on_channel([1], now=0.0)
    now, pauses = 0.0, []
    for _ in range(8):
        assert pursuit.take_version(now=now) == 1
        pursuit.on_failed(1, permanent=False, now=now)
        assert pursuit.take_version(now=now) is None
        wakeup = pursuit.next_wakeup()
        pauses.append(wakeup - now)
        now = wakeup
    assert pauses[0] == pytest.approx(0.2)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE_S)
    pursuit.on_channel([1, 2], now=now)
    assert pursuit.take_version(now=now) == 2, "a new version does not wait for an old one's pause"


def test_a_replica_without_a_version_falls_back_but_never_to_one_rolled_back():
    pursuit = Pursuit()
    # 3 was rolled back to 2, then 4 was published.
    pursuit.on_channel([1, 2, 3, 2, 4], now=0.0)
    assert pursuit.take_version(now=0.0) == 4
    pursuit.on_failed(4, permanent=True, now=0.0)
    assert pursuit.take_version(now=0.0) == 2
    pursuit.on_failed(2, permanent=True, now=0.0)
    assert pursuit.take_version(now=0.0) == 1
    pursuit.on_serving(1, now=0.0)
    assert pursuit.take_version(now=0.0) is None
    assert pursuit.snapshot() == PursuitSnapshot(4, 1, 0.0)


def test_what_serves_is_never_left_for_an_older_fallback():
    pursuit = Pursuit()
    pursuit.on_channel([1, 2], now=0.0)
    pursuit.take_version(now=0.0)
    pursuit.on_serving(2, now=0.0)
    pursuit.on_channel([1, 2, 3], now=0.0)
    pursuit.take_version(now=0.0)
    pursuit.on_failed(3, permanent=True, now=0.0)
    assert pursuit.take_version(now=0.0) is None


def test_a_pin_is_wanted_whatever_the_channel_does():
    pursuit = Pursuit()
    pursuit.on_channel([1, 2, 3], now=0.0)
    assert pursuit.take_version(now=0.0) == 3
    pursuit.on_pinned(2, now=1.0)
    assert pursuit.take_version(now=1.0) is None, "one load at a time"
    assert not pursuit.may_flip(3), "the version under way is not the one pinned"
    pursuit.on_set_aside()
    assert pursuit.take_version(now=1.0) == 2
    assert pursuit.may_flip(2)
    pursuit.on_serving(2, now=2.0)
    pursuit.on_channel([1, 2, 3, 4], now=3.0)
    assert pursuit.take_version(now=3.0) is None
    assert pursuit.snapshot() == PursuitSnapshot(2, 2, None)


def test_an_older_version_under_way_does_not_flip_over_a_pin():
    pursuit = Pursuit()
    pursuit.on_channel([1], now=0.0)
    assert pursuit.take_version(now=0.0) == 1
    pursuit.on_pinned(5, now=0.0)
    assert not pursuit.may_flip(1)


def test_nothing_stands_in_for_a_pinned_version_that_does_not_load():
    pursuit = Pursuit()
    pursuit.on_pinned(7, now=0.0)
    assert pursuit.take_version(now=0.0) == 7
    pursuit.on_failed(7, permanent=True, now=0.0)
    assert pursuit.take_version(now=1e9) is None
    pursuit.on_pinned(7, now=1.0)
    assert pursuit.take_version(now=1.0) == 7, "asked for again: one more try"


def test_a_pin_that_is_lifted_leaves_the_channel_to_decide():
    pursuit = Pursuit()
    pursuit.on_pinned(1, now=0.0)
    pursuit.take_version(now=0.0)
    pursuit.on_serving(1, now=0.0)
    pursuit.on_followed([], now=1.0)
    assert pursuit.take_version(now=1.0) is None, "nothing is known of the channel yet"
    assert pursuit.snapshot() == PursuitSnapshot(1, 1, None)
    pursuit.on_channel([1, 2], now=2.0)
    assert pursuit.take_version(now=2.0) == 2


def test_another_channel_may_lie_below_what_serves():
    pursuit = Pursuit()
    pursuit.on_channel([8, 9], now=0.0)
    pursuit.take_version(now=0.0)
    pursuit.on_serving(9, now=0.0)
    pursuit.on_followed([3, 4], now=1.0)
    assert pursuit.take_version(now=1.0) == 4
    assert pursuit.may_flip(4) and not pursuit.may_flip(9)


@given(
    facts=st.lists(
        st.tuples(
            st.sampled_from(["channel", "pin", "follow", "serve", "fail", "refuse", "aside"]),
            st.integers(1, 6),
        )
    ),
    spans=st.lists(st.floats(0, 20), min_size=40, max_size=40),
)
def test_progress_after_draining_the_next_wakeup_lies_ahead(facts, spans):
    pursuit, now, history, loading = Pursuit(), 0.0, [], None
    for (fact, number), span in zip(facts, spans, strict=False):
        now += span
        if fact == "channel":
            history.append(number)
            pursuit.on_channel(history, now=now)
        elif fact == "pin":
            pursuit.on_pinned(number, now=now)
        elif fact == "follow":
            pursuit.on_followed(history, now=now)
        elif loading is not None:
            if fact == "serve" and pursuit.may_flip(loading):
                pursuit.on_serving(loading, now=now)
            elif fact == "aside":
                pursuit.on_set_aside()
            else:
                pursuit.on_failed(loading, permanent=fact == "refuse", now=now)
            loading = None
        taken = pursuit.take_version(now=now)
        loading = taken if taken is not None else loading
        assert pursuit.take_version(now=now) is None
        wakeup = pursuit.next_wakeup()
        assert wakeup is None or wakeup > now
