"""Latencies as HDR histograms: microseconds from 1 us to an hour, three significant digits.

They add up exactly, across processes and classes, and travel in HdrHistogram's own encoding.
"""

from __future__ import annotations

from typing import IO

from hdrh.histogram import HdrHistogram

LONGEST_US = 3_600_000_000
DIGITS = 3
PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


class Latencies:
    """A distribution of times in seconds."""

    __slots__ = ("_histogram",)

    def __init__(self, encoded: str = "") -> None:
        self._histogram = (
            HdrHistogram.decode(encoded) if encoded else HdrHistogram(1, LONGEST_US, DIGITS)
        )

    def __len__(self) -> int:
        return int(self._histogram.get_total_count())

    def record(self, seconds: float) -> int:
        """Adds one; returns it in whole microseconds as it was counted, 1 us to an hour."""
        latency_us = min(max(round(seconds * 1e6), 1), LONGEST_US)
        self._histogram.record_value(latency_us)
        return latency_us

    def add(self, other: Latencies) -> None:
        """Adds all of another distribution."""
        self._histogram.add(other._histogram)

    def percentile_s(self, percentile: float) -> float:
        """The least time that `percentile` % do not exceed; 0 where nothing was recorded."""
        if not len(self):
            return 0.0
        value = self._histogram.get_value_at_percentile(percentile)
        # A bucket's upper end may lie above what was recorded in it.
        return min(int(value), int(self._histogram.get_max_value())) / 1e6

    @property
    def max_s(self) -> float:
        """The longest, to three digits."""
        return int(self._histogram.get_max_value()) / 1e6 if len(self) else 0.0

    @property
    def mean_s(self) -> float:
        """The mean, to three digits."""
        return float(self._histogram.get_mean_value()) / 1e6 if len(self) else 0.0

    def encoded(self) -> str:
        """HdrHistogram's compressed V2 form in base64."""
        return str(self._histogram.encode().decode("ascii"))


def write_log(tagged: dict[str, Latencies], seconds: float, output: IO[str]) -> None:
    """A HdrHistogram log with one interval a tag; values in it are microseconds.

    `seconds` is how long the interval was. Every HdrHistogram tool reads it.
    """
    output.write("#[Histogram log format version 1.3]\n")
    output.write(
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"\n'
    )
    for tag, latencies in tagged.items():
        longest_ms = latencies.max_s * 1e3
        output.write(f"Tag={tag},0.000,{seconds:.3f},{longest_ms:.3f},{latencies.encoded()}\n")
