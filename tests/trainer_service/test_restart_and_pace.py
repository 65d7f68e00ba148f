"""Whether and when a job starts again; how fast it steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_service.policy.pace import Pace
from trainer_service.policy.restart_policy import (
    FIRST_DELAY_S,
    LONGEST_DELAY_S,
    GiveUp,
    Restart,
    RestartPolicy,
)


def test_each_wait_is_twice_the_one_before_then_it_gives_up():
    policy = RestartPolicy(3)
    waits = [policy.on_failure(0) for _ in range(3)]
    assert waits == [Restart(FIRST_DELAY_S * factor) for factor in (1, 2, 4)]
    assert policy.on_failure(0) == GiveUp(4)


def test_progress_earns_a_fresh_count():
    policy = RestartPolicy(1, progress=100)
    assert policy.on_failure(100) == Restart(FIRST_DELAY_S)
    assert policy.on_failure(200) == Restart(FIRST_DELAY_S)
    assert policy.on_failure(200) == GiveUp(2)


def test_what_cannot_be_cured_is_not_tried_again():
    assert RestartPolicy(5).on_failure(10, permanent=True) == GiveUp(1)
    assert RestartPolicy(0).on_failure(10) == GiveUp(1)


@given(st.integers(0, 10_000), st.lists(st.integers(0, 5), max_size=60))
def test_it_never_gives_up_on_progress_and_never_waits_for_ever(max_restarts, steps):
    policy, progress = RestartPolicy(max_restarts), 0
    for step in steps:
        progress += step
        verdict = policy.on_failure(progress)
        if step and max_restarts:
            assert verdict == Restart(FIRST_DELAY_S)
        elif isinstance(verdict, Restart):
            assert 0 < verdict.delay_s <= LONGEST_DELAY_S


def test_steps_are_spaced_and_lost_time_is_not_made_up():
    pace = Pace(10.0, now=0.0)
    assert pace.delay_s(0.0) == 0
    pace.on_step(0.01)
    assert pace.delay_s(0.01) == pytest.approx(0.09)
    assert pace.delay_s(5.0) == 0
    pace.on_step(5.0)
    pace.on_step(5.01)
    assert pace.delay_s(5.01) > 0.08


def test_without_a_bound_nothing_waits():
    pace = Pace(0.0, now=0.0)
    pace.on_step(1.0)
    assert pace.delay_s(1.0) == 0


@given(st.floats(0.5, 1000), st.lists(st.floats(0, 0.5), min_size=1, max_size=200))
def test_a_window_never_holds_more_steps_than_the_bound(bound, work):
    pace, now, ends = Pace(bound, now=0.0), 0.0, []
    for spent in work:
        now += pace.delay_s(now)
        # A step begins here.
        ends.append(now)
        now += spent
        pace.on_step(now)
    for first, last in zip(ends, ends[5:], strict=False):
        assert last - first >= 5 / bound * 0.999 - 1e-9 - 1 / bound


def test_the_rate_is_that_of_the_last_second():
    pace = Pace(0.0, now=0.0)
    assert pace.steps_per_s(0.0) == 0
    now = 0.0
    for _ in range(300):
        now += 0.01
        pace.on_step(now)
    assert pace.steps_per_s(now) == pytest.approx(100, rel=0.1)
    for _ in range(30):
        now += 0.1
        pace.on_step(now)
    assert pace.steps_per_s(now) == pytest.approx(10, rel=0.2)
    assert pace.steps_per_s(now + 10) < 2
