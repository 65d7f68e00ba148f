"""p99 out of phases in turn: what belongs to which, and how sure a ratio is."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.swap.calm import FOLLOWED, KINDS, NONE, UNFOLLOWED, Phases, order


def measured(slower: float, rounds: int = 20, drift: float = 0.0):
    """Phases of a second with 200 answers each; publications make one in ten slower by a factor."""
    draw, phases, sent, latencies = np.random.default_rng(1), Phases(), [], []
    for number, kind in enumerate(order(rounds)):
        phases.add(kind, number + 0.5, number + 1.0)
        times = draw.uniform(0.009, 0.011, 200) * (1 + drift * draw.random())
        if kind == FOLLOWED:
            times[::10] *= slower
        sent += list(number + np.arange(200) / 200)
        latencies += list(times)
    return phases.calm(sent, latencies)


def test_a_cost_is_found_through_a_drift():
    calm = measured(2.0, drift=0.2)
    assert calm.publishing.ratio == pytest.approx(2.0, rel=0.1)
    assert 1.5 < calm.publishing.low <= calm.publishing.ratio <= calm.publishing.high < 2.5
    assert calm.unfollowed.low <= 1.0 <= calm.unfollowed.high
    assert calm.loading.ratio == pytest.approx(2.0, rel=0.1)
    assert calm.publishing_ms == pytest.approx(calm.without_ms * calm.publishing.ratio)


def test_what_costs_nothing_is_within_the_draws():
    calm = measured(1.0)
    assert calm.publishing.low <= 1.0 <= calm.publishing.high
    assert calm.publishing.high - calm.publishing.low < 0.1


def test_what_was_asked_before_a_phase_counts_does_not():
    calm = measured(1.0, rounds=2)
    assert (calm.rounds, calm.answers) == (2, 2 * len(KINDS) * 100)
    assert calm.requests_per_s == pytest.approx(200)


def test_every_round_holds_every_kind_and_orders_differ():
    kinds = list(order(20))
    rounds = [tuple(kinds[at : at + 3]) for at in range(0, len(kinds), 3)]
    assert all(set(one) == {NONE, UNFOLLOWED, FOLLOWED} for one in rounds)
    assert len(set(rounds)) > 3
