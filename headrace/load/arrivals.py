"""When requests are intended to be sent: pure, seeded, without a clock.

A load is a profile of rates over time and a spacing. Points of a process with rate 1 are laid
through the profile's cumulative rate, so a change of rate falls exactly where the profile says, and
evenly spaced arrivals do not drift: the n-th time is computed from n, not from the one before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from chassis.errors import InvalidArgument

Times = npt.NDArray[np.float64]

# Times are made so many at once: cheap per time, and never a whole hour of them in memory.
CHUNK = 4096


class Spacing(StrEnum):
    """How arrivals of one rate lie in time."""

    # Independent users: exponential gaps.
    POISSON = "poisson"
    # A clock: equal gaps.
    CONSTANT = "constant"
    # Poisson arrivals of groups that arrive at one moment.
    BURSTS = "bursts"


@dataclass(frozen=True, slots=True)
class Step:
    """`rate` requests per second for `seconds`."""

    rate: float
    seconds: float

    def __post_init__(self) -> None:
        if not (0 <= self.rate < float("inf") and 0 < self.seconds < float("inf")):
            raise InvalidArgument(
                "BAD_STEP",
                f"a step of {self.rate:g} requests/s for {self.seconds:g} s: expected a rate of 0 "
                "or more and a time above 0",
            )


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Steps, one after another. Raises InvalidArgument (BAD_STEP, BAD_BURST)."""

    steps: tuple[Step, ...]
    spacing: Spacing = Spacing.POISSON
    # Requests of one group; of `Spacing.BURSTS` alone.
    burst: int = 1

    def __post_init__(self) -> None:
        if not any(step.rate for step in self.steps):
            raise InvalidArgument("BAD_STEP", "no step has a rate above 0: nothing would be sent")
        if self.burst < 1:
            raise InvalidArgument("BAD_BURST", f"a burst of {self.burst}: expected 1 or more")

    @classmethod
    def at_rate(
        cls, rate: float, seconds: float, spacing: Spacing = Spacing.POISSON, burst: int = 1
    ) -> Arrivals:
        """One rate, in requests per second."""
        return cls((Step(rate, seconds),), spacing, burst)

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return sum(step.seconds for step in self.steps)

    @property
    def expected(self) -> float:
        """How many requests it has on average."""
        return sum(step.rate * step.seconds for step in self.steps)

    def chunks(self, seed: int, *, lead_s: float = 0.0) -> Iterator[Times]:
        """Ascending times in seconds, many at once; the same for the same seed.

        `lead_s` seconds at the first step's rate come before the profile, as negative times.
        """
        lead = (Step(self.steps[0].rate, lead_s),) if lead_s else ()
        steps = lead + self.steps
        moments = np.cumsum([0.0, *(step.seconds for step in steps)])
        totals = np.cumsum([0.0, *(step.rate * step.seconds for step in steps)])
        for points in self._unit_points(seed):
            inside = points[points < totals[-1]]
            if len(inside):
                yield _laid(inside, moments, totals, [step.rate for step in steps]) - lead_s
            if len(inside) < len(points):
                return

    def _unit_points(self, seed: int) -> Iterator[Times]:
        """Points of a process with one arrival a second on average, without an end."""
        if self.spacing is Spacing.CONSTANT:
            first = 0
            while True:
                yield np.arange(first, first + CHUNK, dtype=np.float64)
                first += CHUNK
        draw = np.random.default_rng([seed, 0])
        size = self.burst if self.spacing is Spacing.BURSTS else 1
        last = 0.0
        while True:
            groups = last + np.cumsum(draw.exponential(size, max(1, CHUNK // size)))
            last = float(groups[-1])
            yield np.repeat(groups, size)


def _laid(points: Times, moments: Times, totals: Times, rates: Sequence[float]) -> Times:
    """The moments at which the cumulative rate reaches `points`."""
    # To the right of a step without arrivals, whose total does not grow.
    step = np.searchsorted(totals, points, side="right") - 1
    times: Times = moments[step] + (points - totals[step]) / np.asarray(rates)[step]
    return times
