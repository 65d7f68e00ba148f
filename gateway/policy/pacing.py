"""How large a batch of a model should be, and how long after the last one the next should leave.

    b*  = max b <= b_max with (1 + 1/N) * m * l(b) <= D
    gap = clip(phi * alpha / (N - phi * beta * lambda), 0, l(b*) / N)

with N replicas (counted by their speed), D seconds from arrival until due, lambda rows a second and
headroom phi, which grows with the share of their time that rows take. A batch leaves at once if it
is as large as it should be; if not, batches leave `gap` apart, so that the replicas take turns
evenly instead of starting together; at the latest a batch leaves when its first request would else
be late. In an empty system the first request leaves at once; with one replica this is
batch-while-busy.

Source: the size is Nexus' (SOSP'19), the even spacing Symphony's stagger (arXiv 2308.07470) without
its deferral.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

from gateway.policy.latency import UNBOUNDED

# Headroom is for arrivals that come together. It is as large as this once rows take such a share of
# the replicas' time, and in proportion before: where most replicas idle a wait only costs.
HEADROOM = 0.2
FULL_HEADROOM_AT = 0.3
# Arrivals are averaged over so many of the batches to aim at, and over so many seconds at least:
# the longer batches are, the fewer arrivals there are in a second, and the less one second tells.
RATE_BATCHES = 4.0
RATE_AT_LEAST_S = 0.075


@dataclass(frozen=True, slots=True)
class Fleet:
    """The replicas of a model taken together: their number by speed, and how they run a batch.

    `alpha_s`, `beta_s` and `margin` are those of the fastest; `replicas` is 0 if none is known.
    """

    replicas: float = 0.0
    alpha_s: float = 0.0
    beta_s: float = 0.0
    margin: float = 1.0

    def seconds(self, rows: int) -> float:
        """A batch of so many rows takes so long."""
        return self.alpha_s + self.beta_s * rows


def best_rows(fleet: Fleet, budget_s: float, most: int, preferred: Sequence[int] = ()) -> int:
    """b*: rows of the batch that makes the most of the replicas within the budget; 1 to `most`.

    If `preferred` sizes are named (ascending), the largest of them that is no larger.
    """
    rows = most
    if fleet.replicas:
        span_s = budget_s / ((1 + 1 / fleet.replicas) * fleet.margin)
        if fleet.beta_s > 0:
            # A budget without end is a float's infinity.
            rows = int(min((span_s - fleet.alpha_s) / fleet.beta_s + 1e-9, UNBOUNDED))
        elif span_s < fleet.alpha_s:
            rows = 1
        rows = min(max(rows, 1), most)
    fitting = [size for size in preferred if size <= rows]
    return fitting[-1] if fitting else rows


class Pace:
    """The rate of one model's arrivals, and when its last batch left."""

    __slots__ = ("_arrived", "_at", "_rate", "dispatched_at")

    def __init__(self) -> None:
        self.dispatched_at = float("-inf")
        self._arrived = 0
        self._at = float("-inf")
        self._rate = 0.0

    def rate(self, arrived: int, batch_s: float, now: float) -> float:
        """Rows a second; `arrived` is how many came so far, ever; `batch_s` what a batch takes."""
        span_s = now - self._at
        if span_s > 0:
            keep = exp(-span_s / max(RATE_BATCHES * batch_s, RATE_AT_LEAST_S))
            self._rate = keep * self._rate + (1 - keep) * (arrived - self._arrived) / span_s
            self._arrived, self._at = arrived, now
        return self._rate

    def next_at(self, fleet: Fleet, best: int, rate: float) -> float:
        """When the next batch may leave that is not as large as it should be."""
        if not fleet.replicas:
            return self.dispatched_at
        most_s = fleet.seconds(best) / fleet.replicas
        busy = fleet.beta_s * rate
        phi = 1 + HEADROOM * min(busy / fleet.replicas / FULL_HEADROOM_AT, 1.0)
        spare = fleet.replicas - phi * busy
        gap_s = min(phi * fleet.alpha_s / spare, most_s) if spare > 0 else most_s
        return self.dispatched_at + gap_s
