"""The time series of a load: a line an interval and class, of the requests intended within it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from typing import IO

import numpy as np

from headrace.load.mix import TOTAL
from headrace.load.results import LoadResult
from headrace.load.tally import Interval, Tally


@dataclass(frozen=True, slots=True)
class Line:
    """One interval; counts are requests, not rates. Its fields are the columns of the CSV."""

    # Seconds from the start of what counts to the start of the interval.
    at_s: float
    # The class, "total" for all.
    class_name: str
    offered: int
    answered: int
    good: int
    failed: int
    not_sent: int
    unfinished: int
    # Milliseconds; None where nothing was answered.
    p50_ms: float | None
    p99_ms: float | None


def lines(result: LoadResult) -> Iterator[Line]:
    """All lines: the total's, then each class's where there are several."""
    yield from _lines_of(TOTAL, result.total, result)
    classes = list(result.by_class())
    if len(classes) > 1:
        for name, tally in classes:
            yield from _lines_of(name, tally, result)


def write_csv(result: LoadResult, output: IO[str]) -> None:
    """Writes the lines with a head; empty cells where nothing was answered."""
    writer = csv.writer(output, lineterminator="\n")
    names = [item.name for item in fields(Line)]
    writer.writerow(["class" if name == "class_name" else name for name in names])
    writer.writerows(astuple(line) for line in lines(result))


def _lines_of(name: str, tally: Tally, result: LoadResult) -> Iterator[Line]:
    step_s = result.plan.interval_s
    count = max([int(np.ceil(result.seconds / step_s)), *(n + 1 for n in tally.intervals)])
    for number in range(count):
        interval = tally.intervals.get(number) or Interval()
        p50_ms, p99_ms = _percentiles_ms(interval)
        yield Line(
            round(number * step_s, 6),
            name,
            interval.offered,
            interval.answered,
            interval.good,
            interval.failed,
            interval.not_sent,
            interval.unfinished,
            p50_ms,
            p99_ms,
        )


def _percentiles_ms(interval: Interval) -> tuple[float | None, float | None]:
    if not interval.latencies_us:
        return None, None
    p50, p99 = np.percentile(np.asarray(interval.latencies_us), (50, 99)) / 1e3
    return round(float(p50), 3), round(float(p99), 3)
