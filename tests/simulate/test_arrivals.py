"""Traces have the rates they should, in order of time; recorded ones are as they were."""

from __future__ import annotations

import itertools
import random

import pytest

from benchmarks.simulate.arrivals import (
    Arrival,
    Kind,
    bursty,
    diurnal,
    few_or_many_rows,
    merge,
    poisson,
    recorded,
    step,
)
from headrace.load.trace import TraceEntry, read_trace, write_trace

RATE = 500.0


def until(arrivals, end_s: float) -> list[Arrival]:
    return list(itertools.takewhile(lambda arrival: arrival.at_s < end_s, arrivals))


@pytest.mark.parametrize("trace", [poisson, bursty, diurnal], ids=lambda trace: trace.__name__)
def test_a_trace_has_its_average_rate_and_is_in_order(trace):
    found = until(trace(random.Random(1), RATE), 60.0)
    assert len(found) == pytest.approx(60 * RATE, rel=0.08)
    times = [arrival.at_s for arrival in found]
    assert times == sorted(times)


def test_bursts_spread_counts_more_than_chance_does():
    def spread(trace) -> float:
        times = [arrival.at_s for arrival in until(trace(random.Random(1), RATE), 20.0)]
        counts = [sum(at <= t * 10 < at + 1 for t in times) for at in range(200)]
        mean = sum(counts) / len(counts)
        return sum((count - mean) ** 2 for count in counts) / len(counts) / mean

    assert spread(poisson) < 1.5
    assert spread(bursty) > 5


def test_a_day_has_a_high_and_a_low():
    found = until(diurnal(random.Random(1), RATE, day_s=4.0), 4.0)
    morning = sum(arrival.at_s < 2.0 for arrival in found)
    assert morning > 2 * (len(found) - morning)


def test_a_step_is_high_between_its_ends():
    found = until(step(random.Random(1), 100.0, 1000.0, 1.0, 2.0), 3.0)
    counts = [sum(at <= arrival.at_s < at + 1 for arrival in found) for at in range(3)]
    assert counts[0] == pytest.approx(100, abs=30)
    assert counts[1] == pytest.approx(1000, abs=100)
    assert counts[2] == pytest.approx(100, abs=30)


def test_merged_streams_keep_order_and_kind():
    streams = (
        poisson(random.Random(seed), RATE, Kind(priority=seed, tenant=str(seed), models=(seed,)))
        for seed in (1, 2)
    )
    found = until(merge(*streams), 2.0)
    assert [arrival.at_s for arrival in found] == sorted(arrival.at_s for arrival in found)
    assert {(one.priority, one.tenant, one.model) for one in found} == {(1, "1", 1), (2, "2", 2)}


def test_some_requests_have_many_rows():
    kind = Kind(few_or_many_rows)
    rows = [arrival.rows for arrival in until(poisson(random.Random(1), RATE, kind), 10.0)]
    assert set(rows) == {1, 32}
    assert rows.count(32) == pytest.approx(len(rows) / 20, rel=0.3)


def test_a_recorded_trace_counts_from_its_first_request(tmp_path):
    file = tmp_path / "trace.jsonl"
    with file.open("w") as output:
        write_trace(
            [
                TraceEntry(12.5, "urgent", priority=1, rows=3),
                TraceEntry(12.0, "batch", priority=3, tenant="gold"),
                TraceEntry(13.0),
            ],
            output,
        )
    entries = read_trace(file)
    assert list(recorded(entries)) == [
        Arrival(0.0, 1, 3, "gold"),
        Arrival(0.5, 3, 1),
        Arrival(1.0, 1, 2),
    ]
    assert next(reversed(list(recorded(entries, scale=5.0)))).at_s == pytest.approx(0.2)
