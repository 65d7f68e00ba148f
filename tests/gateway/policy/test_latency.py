"""Learned latency: the line is found, changes are noticed at once, the margin covers the noise."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.latency import (
    LEAST_MARGIN,
    MOST_MARGIN,
    RESIDUALS,
    UNBOUNDED,
    UNSURE,
    BatchLatency,
)

ALPHA_S, BETA_S = 0.005, 0.00025


def taught(count: int, *, noise: float = 0.0, factor: float = 1.0, seed: int = 1) -> BatchLatency:
    core = BatchLatency()
    teach(core, count, noise=noise, factor=factor, seed=seed)
    return core


def teach(core: BatchLatency, count: int, *, noise=0.0, factor=1.0, seed=1, most=64) -> None:
    draw = random.Random(seed)
    for _ in range(count):
        rows = draw.randint(1, most)
        core.on_batch(rows, (ALPHA_S + BETA_S * rows) * factor * max(draw.gauss(1, noise), 0.1))


def test_nothing_is_known_at_first():
    core = BatchLatency()
    assert not core.known and core.predict(64) == 0.0
    assert core.fit(0.001) == core.fit(-1.0) == UNBOUNDED


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_alpha_and_beta_are_within_a_twentieth_after_200_batches(noise):
    core = taught(200, noise=noise)
    assert core.alpha_s == pytest.approx(ALPHA_S, rel=0.05 if not noise else 0.1)
    assert core.beta_s == pytest.approx(BETA_S, rel=0.05)


def test_one_batch_teaches_a_line_through_it_with_a_cautious_slope():
    core = BatchLatency()
    core.on_batch(1, 0.010)
    assert core.predict(1) == pytest.approx(0.010)
    assert 0.010 < core.predict(64) < 0.64


def test_sizes_that_hardly_differ_move_the_intercept_only():
    core = taught(200)
    beta_s = core.beta_s
    for _ in range(400):
        core.on_batch(32, 1.2 * (ALPHA_S + BETA_S * 32))
    assert core.beta_s == pytest.approx(beta_s, rel=0.2)
    assert core.predict(32) == pytest.approx(1.2 * (ALPHA_S + BETA_S * 32), rel=0.01)


@pytest.mark.parametrize("factor", [0.4, 2.0, 10.0])
def test_what_an_endpoint_that_changed_does_is_known_after_a_few_larger_batches(factor):
    # Batches grow when endpoints slow down; that is no steeper slope.
    core = BatchLatency()
    for count in range(200):
        rows = 20 + count % 5
        core.on_batch(rows, ALPHA_S + BETA_S * rows)
    for count in range(8):
        rows = 40 + count % 5
        core.on_batch(rows, factor * (ALPHA_S + BETA_S * rows))
    for rows in (1, 32, 64):
        assert core.predict(rows) == pytest.approx(factor * (ALPHA_S + BETA_S * rows), rel=0.1)


def test_a_slow_down_shows_within_ten_batches_and_is_learned_within_hundred():
    core = taught(200)
    teach(core, 10, factor=2.0)
    assert core.predict(32) == pytest.approx(2 * (ALPHA_S + BETA_S * 32), rel=0.15)
    teach(core, 100, factor=2.0)
    assert core.slowness == pytest.approx(1.0, abs=0.2)
    assert core.predict(1) == pytest.approx(2 * (ALPHA_S + BETA_S), rel=0.05)
    teach(core, 30, factor=1.0)
    assert core.predict(32) == pytest.approx(ALPHA_S + BETA_S * 32, rel=0.15)


def test_one_hiccup_is_no_trend():
    core = taught(200)
    before_s = core.predict(32)
    core.on_batch(32, 100 * before_s)
    teach(core, 20)
    assert core.predict(32) == pytest.approx(before_s, rel=0.25)


def test_the_margin_covers_the_noise_and_stays_bounded():
    assert taught(200).margin == LEAST_MARGIN
    noisy = taught(400, noise=0.1)
    draw, misses = random.Random(9), 0
    for _ in range(1000):
        rows = draw.randint(1, 64)
        seconds = (ALPHA_S + BETA_S * rows) * draw.gauss(1, 0.1)
        misses += seconds > noisy.bound(rows)
        noisy.on_batch(rows, seconds)
    assert noisy.margin > 1.1 and misses < 30
    assert taught(400, noise=3.0).margin == MOST_MARGIN


def test_the_margin_is_wide_while_few_batches_tell_how_far_off_one_in_a_hundred_is():
    margins = [taught(count).margin for count in (0, 10, 40, RESIDUALS + 10)]
    assert margins == sorted(margins, reverse=True) and len(set(margins)) == len(margins)
    assert margins[0] == LEAST_MARGIN + UNSURE and margins[-1] == LEAST_MARGIN
    # It is no more than a guess: what batches show counts where that is more.
    assert taught(40, noise=0.2).margin > LEAST_MARGIN + UNSURE


@given(
    st.lists(st.tuples(st.integers(1, 256), st.floats(1e-6, 10.0)), min_size=1, max_size=60),
    st.floats(0.0, 20.0),
)
@settings(max_examples=200, deadline=None)
def test_what_fits_is_in_time_and_one_more_row_is_not(batches, span_s):
    core = BatchLatency()
    for rows, seconds in batches:
        core.on_batch(rows, seconds)
    rows = core.fit(span_s)
    assert core.alpha_s >= 0 and core.beta_s >= 0
    if rows:
        assert core.bound(min(rows, 10**6)) <= span_s * (1 + 1e-6) + 1e-9
    if rows < 10**6:
        assert core.bound(rows + 1) >= span_s * (1 - 1e-6) - 1e-9
    assert core.fit(span_s / 2) <= rows, "never larger for less time"
