"""Bounds of shares and means, beside published values and by drawing."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.policy.confidence import (
    Sample,
    exceeds,
    greatest_share,
    least_difference,
    least_share,
    spent,
)
from tests.rollout.figures import even, sample

counts = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("hits", "count", "bounds"),
    # Two-sided 95 % by Clopper and Pearson; of none and of all they have closed forms.
    [
        (0, 10, (0.0, 1 - 0.025**0.1)),
        (10, 10, (0.025**0.1, 1.0)),
        (4, 20, (0.0573, 0.4366)),
        (81, 263, (0.2527, 0.3676)),
        (15, 148, (0.0578, 0.1617)),
        (1, 29, (0.0009, 0.1776)),
    ],
)
def test_bounds_of_a_share(hits, count, bounds):
    found = least_share(hits, count, 0.025), greatest_share(hits, count, 0.025)
    assert found == pytest.approx(bounds, abs=6e-5)


@pytest.mark.parametrize(("freedom", "t"), [(1, 31.821), (5, 3.365), (30, 2.457), (1000, 2.330)])
def test_means_are_compared_by_students_t(freedom, t):
    # Of two samples of equal size and variance Welch's degrees of freedom are both together.
    from headrace.policy.confidence import _student

    assert _student(freedom, 0.01) == pytest.approx(t, abs=6e-4)


@given(st.data(), counts, st.sampled_from([0.05, 0.01, 1e-5]))
def test_bounds_hold_the_share_and_widen_with_certainty(data, count, alpha):
    hits = data.draw(st.integers(0, count))
    low, high = least_share(hits, count, alpha), greatest_share(hits, count, alpha)
    assert 0 <= low <= hits / count <= high <= 1
    assert least_share(hits, count, alpha / 10) <= low
    assert low <= least_share(min(hits + 1, count), count, alpha)


@given(st.data(), counts, counts)
def test_a_difference_is_bounded_by_what_was_seen(data, count, others):
    hits, other_hits = (data.draw(st.integers(0, most)) for most in (count, others))
    seen = hits / count - other_hits / others
    assert -1 - 1e-9 <= least_difference(hits, count, other_hits, others, 0.01) <= seen


@given(st.integers(1, 10**9))
def test_what_is_spent_on_looks_adds_up_to_all(looks):
    doublings = looks.bit_length()
    assert sum(spent(0.01, 2**at) for at in range(doublings)) < 0.01
    assert spent(0.01, looks) == spent(0.01, 2 ** (doublings - 1))


def test_many_requests_are_bounded_in_little_time_and_exactly():
    # The normal approximation is right there, to the fourth digit.
    count, alpha, z = 10**7, 0.01, 2.3263
    share = 0.02
    expected = share - z * math.sqrt(share * (1 - share) / count)
    assert least_share(int(share * count), count, alpha) == pytest.approx(expected, rel=1e-5)


def test_a_mean_exceeds_another_only_where_that_is_sure():
    assert exceeds(even(50, 2.0, 0.5), even(50, 1.0, 0.5), 0.01)
    assert not exceeds(even(50, 1.0, 0.5), even(50, 2.0, 0.5), 0.01)
    assert not exceeds(even(4, 2.0, 2.0), even(4, 1.0, 2.0), 0.01)
    assert exceeds(even(50, 2.0, 0.1), even(50, 1.0, 0.1), 0.01, factor=1.5)
    assert not exceeds(even(50, 1.4, 0.1), even(50, 1.0, 0.1), 0.01, factor=1.5)
    assert not exceeds(even(1, 9.0), even(50, 1.0), 0.01)


def test_a_few_equal_numbers_are_no_certainty():
    # One in twenty is 1: none in ten is what chance gives.
    others = sample([1.0] * 50 + [0.0] * 950)
    assert not exceeds(others, sample([0.0] * 10), 0.01)
    assert exceeds(even(40, 1.0), even(40, 0.0), 0.01)


def test_samples_add_up():
    draw = random.Random(3)
    values = [draw.gauss(1, 2) for _ in range(100)]
    together = sample(values[:30]) + sample(values[30:])
    mean = sum(values) / 100
    variance = sum((value - mean) ** 2 for value in values) / 99
    assert (together.mean, together.variance) == pytest.approx((mean, variance))
    assert (Sample().mean, Sample().variance, Sample(1, 3.0, 9.0).variance) == (0, 0, 0)


def test_numbers_that_cannot_be_stop_nothing():
    assert 0 <= least_share(9, 4, 0.01) <= 1
    assert not math.isnan(least_difference(9, 4, 8, 0, 0.01))
    nonsense = Sample(40, math.nan, math.inf)
    assert not exceeds(nonsense, even(40, 1.0), 0.01)
    assert not exceeds(even(40, 1.0), nonsense, 0.01)


def test_a_margin_is_a_part_of_the_distance():
    assert exceeds(even(50, 2.0, 0.1), even(50, 1.0, 0.1), 0.01, margin=0.5)
    assert not exceeds(even(50, 1.4, 0.1), even(50, 1.0, 0.1), 0.01, margin=0.5)


@given(st.integers(0, 1000))
def test_noise_beside_a_large_mean_is_no_certainty(seed):
    # The squares of both have lost what their numbers vary by.
    draw = random.Random(seed)
    one, other = (sample([1e9 + draw.gauss(0, 1) for _ in range(40)]) for _ in range(2))
    assert not exceeds(one, other, 0.01)
    assert not exceeds(other, one, 0.01)


@given(st.floats(-1e6, 1e6), st.integers(2, 3000), st.integers(2, 3000))
def test_equal_numbers_differ_by_nothing_however_many_are_added_up(value, count, others):
    assert not exceeds(sample([value] * count), sample([value] * others), 0.01)


def test_sums_that_overflow_or_vanish_decide_nothing():
    # What is infinite less what is infinite was taken for no variance at all.
    huge = Sample(40, 1e200, math.inf)
    assert not exceeds(huge, even(40, 1.0), 0.01)
    assert not exceeds(even(40, 1.0), Sample(40, -1e200, math.inf), 0.01)
    assert not exceeds(Sample(40, 40.0, math.inf), even(40, 0.0), 0.01)
    assert not exceeds(Sample(40, 1e300, 1.0), even(40, 0.0), 0.01)
    assert not exceeds(even(40, 1e-200), even(40, 0.0), 0.01)
    # Neither is an error.
    assert not exceeds(even(40, 1.0), even(40, -1.0, 0.1), 0.01, factor=1e200)
    assert not exceeds(even(40, 1.0, 0.1), even(40, -1.0, 0.1), 0.01, margin=1e300)
