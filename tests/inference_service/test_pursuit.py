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


def serving(version, *, candidate=0, standby=0):
    """A pursuit whose channel holds `version`, which serves, and with a candidate."""
    pursuit = Pursuit()
    pursuit.on_channel([version], now=0.0)
    assert pursuit.take_version(now=0.0) == version
    pursuit.on_serving(version, now=0.0)
    pursuit.on_standby(standby)
    pursuit.on_candidate(candidate)
    return pursuit


@pytest.mark.parametrize("candidate", [3, 7], ids=["smaller", "larger"])
def test_a_candidate_is_loaded_aside_and_does_not_flip(candidate):
    pursuit = serving(5, candidate=candidate, standby=4)
    assert pursuit.take_version(now=1.0) == candidate
    assert pursuit.aside
    assert not pursuit.may_flip(candidate)
    pursuit.on_set_aside()
    pursuit.on_standby(candidate)
    assert not pursuit.aside
    assert pursuit.take_version(now=2.0) is None
    assert pursuit.next_wakeup() is None
    assert pursuit.snapshot() == PursuitSnapshot(5, 5, None), "it is not behind for a candidate"


@pytest.mark.parametrize("candidate", [3, 7], ids=["smaller", "larger"])
def test_a_promoted_candidate_is_the_wanted_version(candidate):
    pursuit = serving(5, candidate=candidate, standby=candidate)
    pursuit.on_channel([5, candidate], now=1.0)
    assert pursuit.take_version(now=1.0) == candidate
    assert not pursuit.aside
    assert pursuit.may_flip(candidate)


@pytest.mark.parametrize("candidate", [3, 7], ids=["smaller", "larger"])
def test_a_candidate_promoted_while_it_loads_flips_and_no_other_move_lets_it(candidate):
    pursuit = serving(5, candidate=candidate)
    assert pursuit.take_version(now=1.0) == candidate
    pursuit.on_channel([5, 8], now=1.0)
    assert not pursuit.may_flip(candidate), "a later version is wanted, not the candidate"
    pursuit.on_channel([5, 8, candidate], now=1.0)
    assert pursuit.may_flip(candidate)
    pursuit.on_channel([5, 8, candidate, 5], now=1.0)
    assert not pursuit.may_flip(candidate)


def test_what_is_wanted_comes_before_a_candidate_and_makes_it_pending_again():
    pursuit = Pursuit()
    pursuit.on_candidate(2)
    assert pursuit.take_version(now=0.0) is None, "beside nothing it cannot stand"
    pursuit.on_channel([1], now=0.0)
    assert pursuit.take_version(now=0.0) == 1
    pursuit.on_serving(1, now=0.0)
    assert pursuit.take_version(now=0.0) == 2
    pursuit.on_channel([1, 3], now=1.0)
    assert pursuit.take_version(now=1.0) is None, "its load is not broken off"
    pursuit.on_set_aside()
    pursuit.on_standby(2)
    assert pursuit.take_version(now=1.0) == 3
    assert not pursuit.aside
    pursuit.on_serving(3, now=1.0)
    pursuit.on_standby(1)
    assert pursuit.take_version(now=1.0) == 2, "3 was loaded over it"
    assert pursuit.aside


def test_a_candidate_is_loaded_beside_a_version_whose_successor_is_refused():
    pursuit = serving(1, candidate=3)
    pursuit.on_channel([1, 2], now=1.0)
    assert pursuit.take_version(now=1.0) == 2
    pursuit.on_failed(2, permanent=False, now=1.0)
    assert pursuit.take_version(now=1.0) is None, "2 is still to be had"
    assert pursuit.take_version(now=2.0) == 2
    pursuit.on_failed(2, permanent=True, now=2.0)
    assert pursuit.take_version(now=2.0) == 3


def test_a_candidates_failures_are_its_own():
    pursuit = serving(1, candidate=2)
    assert pursuit.take_version(now=0.0) == 2
    pursuit.on_failed(2, permanent=False, now=0.0)
    assert pursuit.take_version(now=0.0) is None
    assert pursuit.next_wakeup() == pytest.approx(0.2)
    pursuit.on_channel([1, 3], now=0.0)
    assert pursuit.take_version(now=0.0) == 3, "what is wanted does not wait for its pause"
    pursuit.on_serving(3, now=0.1)
    assert pursuit.next_wakeup() == pytest.approx(0.2), "a flip does not shorten it"
    assert pursuit.take_version(now=0.2) == 2
    pursuit.on_failed(2, permanent=True, now=0.2)
    assert pursuit.take_version(now=1e9) is None
    assert pursuit.next_wakeup() is None
    pursuit.on_candidate(2)
    assert pursuit.take_version(now=1e9) == 2, "its channel moved: one more try"


@pytest.mark.parametrize("permanent", [False, True])
def test_a_candidate_that_fails_after_its_promotion_is_tried_as_what_is_wanted(permanent):
    pursuit = serving(1, candidate=2)
    assert pursuit.take_version(now=0.0) == 2
    pursuit.on_channel([1, 2], now=0.0)
    pursuit.on_failed(2, permanent=permanent, now=0.0)
    assert pursuit.take_version(now=0.0) == 2
    assert not pursuit.aside
    pursuit.on_failed(2, permanent=True, now=0.0)
    assert pursuit.take_version(now=1e9) is None


def test_an_ended_rollout_changes_nothing():
    pursuit = serving(1, candidate=2, standby=2)
    pursuit.on_candidate(0)
    assert pursuit.take_version(now=0.0) is None
    loading = serving(1, candidate=2)
    assert loading.take_version(now=0.0) == 2
    loading.on_candidate(0)
    assert not loading.may_flip(2)
    loading.on_set_aside()
    assert loading.take_version(now=0.0) is None


def test_beside_a_pin_there_is_no_candidate():
    pursuit = serving(1, candidate=2)
    pursuit.on_pinned(1, now=0.0)
    assert pursuit.take_version(now=0.0) is None
    pursuit.on_followed([1], now=0.0)
    assert pursuit.take_version(now=0.0) == 2
    pursuit.on_pinned(2, now=0.0)
    assert pursuit.may_flip(2)


@given(
    facts=st.lists(
        st.tuples(
            st.sampled_from(
                ["channel", "pin", "follow", "candidate", "serve", "fail", "refuse", "aside"]
            ),
            st.integers(1, 6),
        )
    ),
    spans=st.lists(st.floats(0, 20), min_size=40, max_size=40),
)
def test_progress_after_draining_the_next_wakeup_lies_ahead(facts, spans):
    pursuit, now, history, loading, served = Pursuit(), 0.0, [], None, 0
    for (fact, number), span in zip(facts, spans, strict=False):
        now += span
        if fact == "channel":
            history.append(number)
            pursuit.on_channel(history, now=now)
        elif fact == "pin":
            pursuit.on_pinned(number, now=now)
        elif fact == "follow":
            pursuit.on_followed(history, now=now)
        elif fact == "candidate":
            pursuit.on_candidate(number - 1)
        elif loading is not None:
            if fact == "serve" and pursuit.may_flip(loading):
                pursuit.on_serving(loading, now=now)
                pursuit.on_standby(served)
                served = loading
            elif fact in ("serve", "aside"):
                pursuit.on_set_aside()
                pursuit.on_standby(loading)
            else:
                pursuit.on_failed(loading, permanent=fact == "refuse", now=now)
            loading = None
        taken = pursuit.take_version(now=now)
        loading = taken if taken is not None else loading
        assert pursuit.take_version(now=now) is None
        wakeup = pursuit.next_wakeup()
        assert wakeup is None or wakeup > now


class TwoSlots:
    """A model of what a replica does with a pursuit: two slots, loads that end when told."""

    def __init__(self) -> None:
        self.pursuit, self.now = Pursuit(), 0.0
        self.serving = self.standby = self.loading = 0
        self.history, self.flips = [], []

    def take(self) -> None:
        if not self.loading:
            self.pursuit.on_standby(self.standby)
            self.loading = self.pursuit.take_version(now=self.now) or 0

    def end(self, *, fails: bool = False, permanent: bool = False) -> None:
        version, self.loading = self.loading, 0
        if not version:
            return
        if fails:
            self.standby = 0
            self.pursuit.on_failed(version, permanent=permanent, now=self.now)
        elif self.pursuit.may_flip(version):
            self.flips.append((version, self.history[-1]))
            self.serving, self.standby = version, self.serving
            self.pursuit.on_serving(version, now=self.now)
        else:
            self.standby = version
            self.pursuit.on_set_aside()

    def settle(self) -> None:
        """No load fails from now on, and nothing is wanted anew."""
        for _ in range(20):
            self.now += LONGEST_PAUSE_S
            self.take()
            self.end()


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["move", "candidate", "take", "end", "fail"]), st.integers(1, 6)),
        max_size=40,
    ),
    wanted=st.integers(1, 6),
    candidate=st.integers(0, 6),
)
def test_both_the_wanted_version_and_the_candidate_are_reached(steps, wanted, candidate):
    replica, moved_to = TwoSlots(), set()
    for step, number in steps:
        if step == "move":
            replica.history.append(number)
            moved_to.add(number)
            replica.pursuit.on_channel(replica.history, now=replica.now)
        elif step == "candidate":
            replica.pursuit.on_candidate(number - 1)
        elif step == "take":
            replica.take()
        else:
            replica.end(fails=step == "fail", permanent=number > 4)
        assert {version for version, _ in replica.flips} <= moved_to, "only what was ever wanted"
    replica.history.append(wanted)
    replica.pursuit.on_channel(replica.history, now=replica.now)
    replica.pursuit.on_candidate(candidate)
    replica.settle()
    assert replica.serving == wanted
    assert candidate in (0, wanted, replica.standby)
    flips = len(replica.flips)
    replica.settle()
    assert len(replica.flips) == flips, "they do not take turns"


@given(candidate=st.integers(1, 6), wanted=st.integers(1, 6), later=st.integers(1, 6))
def test_a_candidate_flips_if_and_only_if_it_is_what_the_channel_wants(candidate, wanted, later):
    pursuit = serving(wanted, candidate=candidate)
    taken = pursuit.take_version(now=0.0)
    assert taken == (candidate if candidate != wanted else None)
    if taken:
        pursuit.on_channel([wanted, later], now=1.0)
        assert pursuit.may_flip(candidate) == (later == candidate)
