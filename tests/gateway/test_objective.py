"""By when a replica has to answer: the deadline or objective, less the way to the caller."""

from __future__ import annotations

import random

import pytest

from gateway.ingress.objective import REPLY_S, REPLY_SHARE, Objectives


def reply_s(objectives: Objectives, span_s: float = 10.0) -> float:
    """What is left for the way of a request with so much time."""
    return span_s - objectives.due_at(1, 0.0, span_s)


def test_the_way_that_is_left_covers_nearly_all_ways_measured_not_half_of_them():
    objectives, draw, late = Objectives(), random.Random(1), 0
    for _ in range(1000):
        way_s = draw.uniform(0.001, 0.009)
        late += way_s > reply_s(objectives)
        objectives.way.on_way(way_s)
    assert late < 30
    assert reply_s(objectives) < 0.03


def test_the_first_way_counts_in_full_and_one_hiccup_is_forgotten():
    objectives = Objectives()
    assert reply_s(objectives) == pytest.approx(REPLY_S)
    objectives.way.on_way(0.02)
    assert reply_s(objectives) >= 0.02
    for _ in range(50):
        objectives.way.on_way(0.002)
    usual_s = reply_s(objectives)
    objectives.way.on_way(0.2)
    assert reply_s(objectives) > 0.1
    for _ in range(50):
        objectives.way.on_way(0.002)
    assert reply_s(objectives) == pytest.approx(usual_s, rel=0.1)


def test_of_a_short_deadline_little_is_left_for_the_way():
    objectives = Objectives({1: 0.1})
    objectives.way.on_way(1.0)
    assert reply_s(objectives, 0.05) == pytest.approx(REPLY_SHARE * 0.05)
    # The objective is sooner than the deadline, and has the same share.
    assert objectives.due_at(1, 0.0, 10.0) == pytest.approx(0.1 * (1 - REPLY_SHARE))


def test_a_way_of_next_to_nothing_leaves_the_least():
    objectives = Objectives()
    for _ in range(20):
        objectives.way.on_way(1e-5)
    assert reply_s(objectives) == pytest.approx(REPLY_S)
