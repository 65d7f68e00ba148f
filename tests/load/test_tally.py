"""Tallies: nothing is lost between processes, nothing counted twice."""

import io
import json

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from hypothesis import given
from hypothesis import strategies as st

from headrace.load.job import Part
from headrace.load.latencies import LONGEST_US, Latencies, write_log
from headrace.load.mix import Mix, TrafficClass
from headrace.load.results import joined
from headrace.load.tally import Tally, merged

ENDS = st.sampled_from(["good", "late", "failed", "not_sent", "unfinished"])
EVENTS = st.lists(st.tuples(st.floats(0, 20), st.floats(1e-6, 100), ENDS), max_size=60)


def book(tally, at_s, latency_s, end):
    tally.on_offered(at_s)
    if end == "not_sent":
        tally.on_not_sent(at_s)
        return
    tally.on_sent()
    tally.on_try()
    if end == "unfinished":
        tally.on_unfinished(at_s)
    elif end == "failed":
        tally.on_failure(at_s, "RESOURCE_EXHAUSTED", "QUEUE_FULL")
    else:
        tally.on_answer(at_s, latency_s, good=end == "good", version="3")


def booked(events, interval_s=1.0):
    tally = Tally(interval_s)
    for event in events:
        book(tally, *event)
    return tally


def plain(tally):
    """All of a tally as values that compare."""
    return json.loads(json.dumps(tally.record()))


def sorted_intervals(tally):
    return {
        number: (interval.offered, interval.good, interval.failed, sorted(interval.latencies_us))
        for number, interval in tally.intervals.items()
    }


@given(EVENTS)
def test_each_request_ends_in_one_way(events):
    tally = booked(events)
    for part in (tally, *tally.intervals.values()):
        failures = part.failures if isinstance(part, Tally) else part.failed
        assert part.offered == part.answered + failures + part.not_sent + part.unfinished
        assert part.good <= part.answered
    assert tally.offered == len(events) == sum(i.offered for i in tally.intervals.values())
    assert tally.shed == tally.failures == tally.reasons["QUEUE_FULL"]


@given(EVENTS, EVENTS, st.sampled_from([0.1, 1.0, 5.0]))
def test_merging_is_booking_it_all_in_one(some, others, interval_s):
    whole = booked([*some, *others], interval_s)
    total = merged([booked(some, interval_s), booked(others, interval_s)], interval_s)
    assert sorted_intervals(total) == sorted_intervals(whole)
    for percentile in (0, 50, 99, 99.9, 100):
        assert total.latencies.percentile_s(percentile) == whole.latencies.percentile_s(percentile)
    for name in ("offered", "sent", "tries", "good", "failed", "versions", "unfinished"):
        assert getattr(total, name) == getattr(whole, name)


@given(EVENTS)
def test_a_tally_survives_its_journey(events):
    tally = booked(events)
    again = Tally.of_record(json.loads(json.dumps(tally.record())))
    assert plain(again) == plain(tally)
    assert again.interval_s == tally.interval_s


def test_parts_are_joined_by_name():
    mix = Mix((TrafficClass("gold"), TrafficClass("bulk")))
    parts = [
        Part({(0, 0): booked([(0, 0.1, "good")])}, Latencies(), 0.1, 1, False),
        Part({(0, 0): booked([(3, 0.1, "good")]), (1, 0): Tally()}, Latencies(), 0.1, 1, True),
    ]
    parts = [Part.of_record(json.loads(json.dumps(part.record()))) for part in parts]
    cells = joined(parts, mix, 1.0)
    assert set(cells) == {("gold", ""), ("bulk", "")}
    assert cells["gold", ""].offered == 2
    assert sorted(cells["gold", ""].intervals) == [0, 3]
    assert [part.stopped for part in parts] == [False, True]


@given(st.lists(st.integers(1, LONGEST_US), min_size=1))
def test_latencies_keep_three_digits(values_us):
    latencies = Latencies()
    for value in values_us:
        latencies.record(value / 1e6)
    values_us.sort()
    median = values_us[(len(values_us) + 1) // 2 - 1]
    assert latencies.percentile_s(50) * 1e6 == pytest.approx(median, rel=1e-3, abs=1)
    assert latencies.max_s * 1e6 == pytest.approx(values_us[-1], rel=1e-3, abs=1)
    assert latencies.percentile_s(100) <= latencies.max_s


def test_what_is_out_of_range_counts_as_its_end():
    latencies = Latencies()
    assert latencies.record(-1) == 1
    assert latencies.record(1e9) == LONGEST_US
    assert len(latencies) == 2


def test_without_a_latency_there_is_nothing_to_tell():
    assert Latencies().percentile_s(99) == Latencies().max_s == Latencies().mean_s == 0


def test_the_log_is_read_by_hdrhistogram(tmp_path):
    latencies = {"total": Latencies(), "gold": Latencies()}
    for number in range(1, 101):
        latencies["total"].record(number / 1e3)
    latencies["gold"].record(0.5)
    output = io.StringIO()
    write_log(latencies, 7.5, output)
    file = tmp_path / "log.hlog"
    file.write_text(output.getvalue())
    reader = HistogramLogReader(str(file), HdrHistogram(1, LONGEST_US, 3))
    total, gold = reader.get_next_interval_histogram(), reader.get_next_interval_histogram()
    reader.close()
    assert total.get_total_count() == 100
    assert total.get_value_at_percentile(50) == pytest.approx(50_000, rel=1e-3)
    assert (gold.get_tag(), gold.get_total_count()) == ("gold", 1)
