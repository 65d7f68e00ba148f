"""Arrivals: rates, spacing, and that the same seed gives the same times."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import InvalidArgument
from headrace.load.arrivals import Arrivals, Spacing, Step

PROFILES = st.lists(
    st.builds(
        Step, st.floats(0, 300, allow_subnormal=False), st.floats(0.01, 5, allow_subnormal=False)
    ),
    min_size=1,
    max_size=5,
).filter(lambda steps: any(step.rate > 0.01 for step in steps))


def times(arrivals, seed=0, lead_s=0.0):
    chunks = list(arrivals.chunks(seed, lead_s=lead_s))
    return np.concatenate(chunks) if chunks else np.empty(0)


def test_constant_arrivals_do_not_drift():
    found = times(Arrivals.at_rate(1000, 60, Spacing.CONSTANT))
    assert len(found) == 60_000
    assert np.abs(found - np.arange(60_000) / 1000).max() < 1e-9


def test_a_step_changes_the_rate_where_it_says():
    found = times(Arrivals((Step(100, 5), Step(400, 5), Step(50, 2)), Spacing.CONSTANT))
    counts = [np.sum((found >= low) & (found < high)) for low, high in [(0, 5), (5, 10), (10, 12)]]
    assert counts == [500, 2000, 100]
    assert found[500] == 5.0
    assert found[501] - found[500] == pytest.approx(1 / 400)


def test_nothing_arrives_in_a_pause():
    found = times(Arrivals((Step(100, 1), Step(0, 3), Step(100, 1))))
    assert not np.any((found >= 1) & (found < 4))
    assert np.any(found > 4)


def test_poisson_gaps_are_exponential():
    gaps = np.diff(times(Arrivals.at_rate(500, 200), seed=7))
    assert len(gaps) == pytest.approx(100_000, rel=0.02)
    assert gaps.mean() == pytest.approx(1 / 500, rel=0.02)
    # The exponential distribution's mark: its deviation is its mean.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
    assert np.mean(gaps > 2 / 500) == pytest.approx(np.exp(-2), rel=0.05)


def test_poisson_steps_have_their_rates():
    found = times(Arrivals((Step(200, 50), Step(1000, 50))), seed=3)
    assert np.sum(found < 50) == pytest.approx(10_000, rel=0.05)
    assert np.sum(found >= 50) == pytest.approx(50_000, rel=0.05)


def test_bursts_arrive_together_at_the_mean_rate():
    found = times(Arrivals.at_rate(1000, 100, Spacing.BURSTS, burst=20), seed=1)
    assert len(found) == pytest.approx(100_000, rel=0.05)
    sizes = [len(list(group)) for _, group in itertools.groupby(found)]
    assert set(sizes) == {20}


@given(PROFILES, st.sampled_from(Spacing), st.integers(0, 2**32), st.floats(0, 3))
def test_times_are_ascending_inside_the_profile_and_repeatable(steps, spacing, seed, lead_s):
    arrivals = Arrivals(tuple(steps), spacing, burst=3)
    found = times(arrivals, seed, lead_s)
    assert np.all(np.diff(found) >= 0)
    if len(found):
        assert found[0] >= -lead_s - 1e-9
        assert found[-1] <= arrivals.seconds + 1e-6
    assert np.array_equal(found, times(arrivals, seed, lead_s))


@given(PROFILES)
def test_constant_arrivals_are_as_many_as_expected(steps):
    arrivals = Arrivals(tuple(steps), Spacing.CONSTANT)
    assert abs(len(times(arrivals)) - arrivals.expected) <= 1


def test_a_lead_comes_before_zero_at_the_first_rate():
    found = times(Arrivals.at_rate(100, 1, Spacing.CONSTANT), lead_s=2)
    assert np.sum(found < -1e-9) == 200
    assert len(found) == 300
    assert found[0] == -2


def test_other_seeds_give_other_times():
    arrivals = Arrivals.at_rate(100, 5)
    assert not np.array_equal(times(arrivals, 1)[:10], times(arrivals, 2)[:10])


@pytest.mark.parametrize("rate, seconds", [(-1, 1), (1, 0), (float("nan"), 1), (1, float("inf"))])
def test_a_step_that_makes_no_sense_is_refused(rate, seconds):
    with pytest.raises(InvalidArgument) as caught:
        Step(rate, seconds)
    assert caught.value.reason == "BAD_STEP"


def test_a_load_without_requests_is_refused():
    with pytest.raises(InvalidArgument):
        Arrivals.at_rate(0, 10)
    with pytest.raises(InvalidArgument):
        Arrivals.at_rate(1, 10, Spacing.BURSTS, burst=0)
