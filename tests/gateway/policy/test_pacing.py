"""Sizes and gaps: as the formulas say, and sensible at their ends."""

from __future__ import annotations

import pytest

from gateway.policy.pacing import Fleet, Pace, best_rows

FLEET = Fleet(4.0, 0.005, 0.00025, 1.03)


def test_the_best_batch_leaves_time_for_the_one_before_it():
    assert best_rows(FLEET, 0.050, 256) == 135
    assert best_rows(FLEET, 0.050, 64) == 64
    assert best_rows(FLEET, 0.001, 64) == 1
    assert best_rows(FLEET, float("inf"), 64) == 64
    assert best_rows(Fleet(), 0.001, 64) == 64, "nothing known: nothing to fear"
    flat = Fleet(1.0, 0.010, 0.0, 1.0)
    assert (best_rows(flat, 0.030, 8), best_rows(flat, 0.010, 8)) == (8, 1)


def test_a_preferred_size_is_aimed_at():
    assert best_rows(FLEET, 0.050, 256, (8, 32, 128, 200)) == 128
    assert best_rows(FLEET, 0.020, 256, (128,)) == best_rows(FLEET, 0.020, 256), "none fits"


def test_batches_are_spaced_over_the_replicas():
    pace = Pace()
    assert pace.next_at(FLEET, 64, 100.0) == float("-inf"), "the first one leaves at once"
    pace.dispatched_at = 10.0
    gaps = [pace.next_at(FLEET, 64, rate) - 10.0 for rate in (0.0, 3000.0, 6000.0, 12000.0, 10**6)]
    assert gaps[0] == pytest.approx(0.005 / 4), "nothing comes: no headroom"
    assert gaps[1] == pytest.approx(1.125 * 0.005 / (4 - 1.125 * 0.75)), "busy 3/16"
    assert gaps[2] == pytest.approx(1.2 * 0.005 / (4 - 1.2 * 1.5)), "full from 0.3 on"
    assert gaps == sorted(gaps)
    assert gaps[3] == gaps[4] == pytest.approx(FLEET.seconds(64) / 4), "never beyond saturation's"
    assert pace.next_at(Fleet(), 64, 100.0) == 10.0


def test_the_rate_follows_arrivals_and_forgets_them():
    pace = Pace()
    pace.rate(0, 0.002, 0.0)
    for at in range(1, 401):
        pace.rate(at, 0.002, at / 1000)
    assert pace.rate(400, 0.002, 0.4) == pytest.approx(1000, rel=0.02)
    assert pace.rate(400, 0.002, 1.4) < 1


def test_the_rate_is_averaged_over_several_batches():
    """Batches 40 times as long and a 40th of the arrivals: the same rate, as steady."""
    short, long = Pace(), Pace()
    seen: list[tuple[float, float]] = []
    short.rate(0, 0.05, 0.0)
    long.rate(0, 2.0, 0.0)
    for at in range(1, 401):
        # In pairs: what a short average makes much of.
        arrived = at // 2 * 2
        short_rate = short.rate(arrived, 0.05, at / 400)
        seen.append((short_rate, 40 * long.rate(arrived, 2.0, at / 10)))
    assert all(ours == pytest.approx(other) for ours, other in seen)
    assert seen[-1][0] == pytest.approx(400, rel=0.02)
