"""What a simulated stretch of time came to: goodput, lateness, latencies, batch sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import nan

from benchmarks.simulate.replica import Replica
from benchmarks.simulate.request import Request

Figures = Mapping[str, float]
MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of the requests that came between two points in time; latencies in seconds, ascending."""

    seconds: float
    rows: int
    good_rows: int
    requests: int
    good: int
    late: int
    latencies: Sequence[float]
    losses: Mapping[str, int]

    @classmethod
    def of(cls, requests: Iterable[Request], begin_s: float, end_s: float) -> Outcome:
        """Counts the requests that arrived from `begin_s` on, before `end_s`."""
        seen = [request for request in requests if begin_s <= request.arrived_at < end_s]
        answered = [request for request in seen if request.answered_at < float("inf")]
        good = [request for request in answered if request.in_time]
        return cls(
            end_s - begin_s,
            sum(request.rows for request in seen),
            sum(request.rows for request in good),
            len(seen),
            len(good),
            len(answered) - len(good),
            sorted(request.answered_at - request.arrived_at for request in answered),
            Counter(request.lost for request in seen if request.lost),
        )

    @property
    def in_slo(self) -> float:
        """Share of the requests that was answered in time; 1 if there were none."""
        return self.good / self.requests if self.requests else 1.0

    @property
    def late_share(self) -> float:
        """Share of the answers that was late."""
        return self.late / len(self.latencies) if self.latencies else 0.0

    @property
    def goodput(self) -> float:
        """Rows a second that were answered in time."""
        return self.good_rows / self.seconds

    def percentile_s(self, share: float) -> float:
        """Seconds within which this share of the answers came; not a number if none came."""
        if not self.latencies:
            return nan
        return self.latencies[min(int(share * len(self.latencies)), len(self.latencies) - 1)]

    def figures(self, capacity: float) -> dict[str, float]:
        """For tables; goodput as a share of `capacity`, in rows a second."""
        return {
            "goodput": self.goodput / capacity,
            "in_slo": self.in_slo,
            "late": self.late_share,
            "p50_ms": self.percentile_s(0.5) * MILLISECONDS,
            "p99_ms": self.percentile_s(0.99) * MILLISECONDS,
            "refused": self._lost("WOULD_BE_LATE", "QUEUE_FULL", "DEADLINE_TOO_SHORT"),
            "given_up": self._lost("GIVEN_UP", "LATE", "EVICTED"),
        }

    def _lost(self, *reasons: str) -> float:
        lost = sum(self.losses.get(reason, 0) for reason in reasons)
        return lost / self.requests if self.requests else 0.0


def batch_rows(replicas: Iterable[Replica], begin_s: float, end_s: float) -> list[int]:
    """Rows of each batch that began in that time, ascending."""
    return sorted(
        span.rows
        for replica in replicas
        for span in replica.history
        if begin_s <= span.began_at < end_s
    )
