"""What became of requests: counts, latencies and a time series, for one class and tenant.

Everything is booked under the moment a request was intended to be sent, so a line of the series
tells what became of the requests of that second, whenever their answers came. For each tally, and
each line of it: offered = answered + failed + not sent + unfinished.
"""

from __future__ import annotations

import base64
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.load.latencies import Latencies

# The status of a request that a server would not take on.
SHED = "RESOURCE_EXHAUSTED"
LATE = "DEADLINE_EXCEEDED"

# Microseconds; four bytes hold more than the hour that a histogram does.
MICROSECONDS = "I"


@dataclass(slots=True)
class Interval:
    """The requests intended within one interval of the series."""

    offered: int = 0
    good: int = 0
    failed: int = 0
    not_sent: int = 0
    unfinished: int = 0
    # Of the answered ones, in microseconds.
    latencies_us: array[int] = field(default_factory=lambda: array(MICROSECONDS))

    @property
    def answered(self) -> int:
        """Requests that were answered, in time or not."""
        return len(self.latencies_us)

    def add(self, other: Interval) -> None:
        """Adds another process's or class's share of the same interval."""
        self.offered += other.offered
        self.good += other.good
        self.failed += other.failed
        self.not_sent += other.not_sent
        self.unfinished += other.unfinished
        self.latencies_us.extend(other.latencies_us)


@dataclass(slots=True)
class Tally:
    """Counts of requests, each of which ends in exactly one of the ways named above."""

    # Seconds of one interval of the series.
    interval_s: float = 1.0
    # Requests that the schedule holds.
    offered: int = 0
    # Those that went out at all; each may have been tried several times.
    sent: int = 0
    # Messages that went out, first tries and retries.
    tries: int = 0
    # Answers within the objective.
    good: int = 0
    # Not sent: too many were out, or their deadline had passed before the generator got to them.
    not_sent: int = 0
    # Given up because the load was ended early.
    unfinished: int = 0
    # By status code, what requests failed with in the end.
    failed: Counter[str] = field(default_factory=Counter)
    # The same by ErrorInfo's reason, where the server gave one.
    reasons: Counter[str] = field(default_factory=Counter)
    # By status code, tries that were tried again.
    retried: Counter[str] = field(default_factory=Counter)
    # Answers by the model version they name.
    versions: Counter[str] = field(default_factory=Counter)
    # Of answered requests, from the intended time.
    latencies: Latencies = field(default_factory=Latencies)
    intervals: dict[int, Interval] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        """Requests that were answered, in time or not."""
        return len(self.latencies)

    @property
    def failures(self) -> int:
        """Requests that ended in an error."""
        return self.failed.total()

    @property
    def shed(self) -> int:
        """Those of them that the server refused to take on."""
        return self.failed[SHED]

    @property
    def deadline_exceeded(self) -> int:
        """Those of them that were not answered in time."""
        return self.failed[LATE]

    @property
    def retries(self) -> int:
        """Tries beyond the first."""
        return self.tries - self.sent

    def on_offered(self, at_s: float) -> None:
        """A request is due."""
        self.offered += 1
        self._at(at_s).offered += 1

    def on_sent(self) -> None:
        """A request goes out for the first time; `on_try` follows."""
        self.sent += 1

    def on_try(self) -> None:
        """A message goes out."""
        self.tries += 1

    def on_not_sent(self, at_s: float) -> None:
        """A request that was due will not be sent."""
        self.not_sent += 1
        self._at(at_s).not_sent += 1

    def on_unfinished(self, at_s: float) -> None:
        """The load ended before the request did."""
        self.unfinished += 1
        self._at(at_s).unfinished += 1

    def on_answer(self, at_s: float, latency_s: float, *, good: bool, version: str) -> int:
        """An answer came; returns its latency in microseconds as it was counted."""
        latency_us = self.latencies.record(latency_s)
        interval = self._at(at_s)
        interval.latencies_us.append(latency_us)
        self.versions[version] += 1
        if good:
            self.good += 1
            interval.good += 1
        return latency_us

    def on_failure(self, at_s: float, code: str, reason: str) -> None:
        """A request failed for good; `reason` is empty where the server gave none."""
        self.failed[code] += 1
        if reason:
            self.reasons[reason] += 1
        self._at(at_s).failed += 1

    def add(self, other: Tally) -> None:
        """Adds the counts of another tally with intervals of the same length."""
        for name in ("offered", "sent", "tries", "good", "not_sent", "unfinished"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("failed", "reasons", "retried", "versions"):
            getattr(self, name).update(getattr(other, name))
        self.latencies.add(other.latencies)
        for number, interval in other.intervals.items():
            self.intervals.setdefault(number, Interval()).add(interval)

    def record(self) -> dict[str, Any]:
        """As JSON values, for another process."""
        return {
            "interval_s": self.interval_s,
            "offered": self.offered,
            "sent": self.sent,
            "tries": self.tries,
            "good": self.good,
            "not_sent": self.not_sent,
            "unfinished": self.unfinished,
            "failed": self.failed,
            "reasons": self.reasons,
            "retried": self.retried,
            "versions": self.versions,
            "latencies": self.latencies.encoded(),
            "intervals": {
                number: _interval_record(interval) for number, interval in self.intervals.items()
            },
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Tally:
        """What `record` wrote."""
        counters = ("failed", "reasons", "retried", "versions")
        return cls(
            **{
                **record,
                **{name: Counter(record[name]) for name in counters},
                "latencies": Latencies(record["latencies"]),
                "intervals": {
                    int(number): Interval(**{**interval, "latencies_us": _read(interval)})
                    for number, interval in record["intervals"].items()
                },
            }
        )

    def _at(self, at_s: float) -> Interval:
        number = int(at_s // self.interval_s)
        interval = self.intervals.get(number)
        if interval is None:
            interval = self.intervals[number] = Interval()
        return interval


def merged(tallies: Iterable[Tally], interval_s: float = 1.0) -> Tally:
    """The sum of tallies, which stay as they are; `interval_s` is that of their series."""
    total = Tally(interval_s)
    for tally in tallies:
        total.add(tally)
    return total


def packed(values: array[int]) -> str:
    """Microseconds as base64."""
    return base64.b64encode(values.tobytes()).decode("ascii")


def unpacked(text: str) -> array[int]:
    """What `packed` wrote."""
    return array(MICROSECONDS, base64.b64decode(text))


def _interval_record(interval: Interval) -> dict[str, Any]:
    return {
        "offered": interval.offered,
        "good": interval.good,
        "failed": interval.failed,
        "not_sent": interval.not_sent,
        "unfinished": interval.unfinished,
        "latencies_us": packed(interval.latencies_us),
    }


def _read(interval: Mapping[str, Any]) -> array[int]:
    return unpacked(interval["latencies_us"])
