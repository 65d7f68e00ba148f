"""The scheduling benchmark: every request counted once, baselines served, a report to read."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from benchmarks.scheduling.learning import Learned, measure_learning
from benchmarks.scheduling.plant import POLICIES, Plant
from benchmarks.scheduling.report import Report
from benchmarks.scheduling.scenarios import (
    INTERVAL_S,
    Bench,
    Line,
    Measurement,
    measurements,
    recovery_s,
)
from headrace.load.tally import Interval, Tally

SMALL = Plant(replicas=2, alpha_ms=40.0, beta_ms=5.0, most_rows=8, objective_ms=400.0)


def line(policy: str, offered: float, scenario: str = "offered load") -> Line:
    return Line(
        scenario, policy, offered, "all", 100, 0.5, 0.9, 0.0, 10.0, 20.0, reasons={"QUEUE_FULL": 10}
    )


def test_the_capacity_is_that_of_the_best_batch():
    assert SMALL.capacity == pytest.approx(200.0)
    assert Plant(objective_ms=1.0).capacity == pytest.approx(4 / 0.225)
    assert Plant().capacity == pytest.approx(4 * 16 / 0.6)


def test_every_policy_meets_every_load_and_only_ours_meets_failures():
    planned = list(measurements(3.0, baselines=True, failures=True))
    loads = [what for what in planned if what.scenario == "offered load"]
    assert len(loads) == 7 * len(POLICIES)
    assert {what.policy for what in planned if what not in loads} == {"headrace"}
    assert len(list(measurements(3.0, baselines=False, failures=False))) == 7
    chosen = list(measurements(3.0, baselines=True, failures=False, loads=(0.5, 2.0)))
    assert {item.offered for item in chosen} == {0.5, 2.0} and len(chosen) == 2 * len(POLICIES)


@pytest.mark.system
@pytest.mark.parametrize("policy", POLICIES)
def test_a_load_on_the_real_stack(policy):
    (found,) = Bench(SMALL).run(Measurement("offered load", policy, 0.5, 2.0))
    assert found.requests > 50
    # A starved machine may be overloaded even by this; nothing else is excused.
    assert set(found.failed) <= {"RESOURCE_EXHAUSTED"}, found
    refused = sum(found.failed.values()) / found.requests
    assert found.in_time + found.late + refused == pytest.approx(1.0), found
    assert found.tries >= found.requests
    assert 0 < found.p50_ms <= found.p99_ms


def test_recovery_counts_from_the_end_of_the_burst_to_the_last_bad_interval():
    tally = Tally(INTERVAL_S)
    for number in range(30):
        tally.intervals[number] = Interval(offered=10, good=10)
    assert recovery_s(tally, 3.0) == 0.0
    tally.intervals[16] = Interval(offered=10, good=9)
    assert recovery_s(tally, 3.0) == pytest.approx(0.4)
    assert recovery_s(tally, None) is None


@pytest.mark.system
def test_what_a_gateway_learned_of_replicas_is_measured():
    plant = Plant(replicas=2, alpha_ms=20.0, beta_ms=2.5, objective_ms=140.0)
    found = measure_learning(plant, watched_s=4.0)
    assert found.batches >= 200
    # How far off, and how soon, is for a quiet machine to say.
    assert found.alpha_off >= 0 and found.beta_off >= 0
    assert (found.relearned_batches is None) == (found.relearned_s is None)


def test_a_report_is_printed_written_and_drawn(tmp_path):
    report = Report(SMALL, 3.0)
    found = [line("headrace", 0.5), line("timer", 2.0), line("headrace", 0.6, "a flood")]
    report.lines.extend(found)
    report.learned = Learned(200, 0.019, 0.002, 6, 2.2)
    with (tmp_path / "out").open("w") as output:
        report.print(Console(width=200, file=output))
    text = (tmp_path / "out").read_text()
    assert "capacity 200 rows/s" in text and "a flood" in text and "10 QUEUE_FULL" in text
    assert "1.9%" in text
    report.write(tmp_path / "new" / "found.json")
    written = json.loads((tmp_path / "new" / "found.json").read_text())
    assert written["capacity_rows_per_s"] == 200.0 and len(written["lines"]) == 3
    report.draw(tmp_path / "found.svg")
    assert (tmp_path / "found.svg").read_text().count("<svg") == 1
