"""The highest rate at which an objective holds: which rate to try next, and when it is known.

Pure: a trial's outcome goes in, the next rate comes out. The search doubles the rate until the
objective is missed (or halves it until it holds), then bisects. It takes for granted that what
holds at a rate holds below it; a measured system only does so roughly, hence `precision`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from chassis.errors import InvalidArgument
from headrace.load.results import LoadResult

# An objective in words: p99<50ms, p99.9<=1s.
OBJECTIVE = re.compile(r"p(\d+(?:\.\d+)?)\s*<=?\s*(\d+(?:\.\d+)?)\s*(us|ms|s)", re.ASCII)
UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0}

# Below this many requests a second nothing is said to hold.
LOWEST_RATE = 0.1


@dataclass(frozen=True, slots=True)
class Objective:
    """A percentile of latency, and how many requests may end otherwise than answered."""

    percentile: float
    limit_s: float
    # Part of the requests that may fail or not be sent.
    failed_share: float = 0.01

    def __post_init__(self) -> None:
        if not (0 < self.percentile <= 100 and self.limit_s > 0 and 0 <= self.failed_share < 1):
            raise InvalidArgument(
                "BAD_OBJECTIVE",
                "expected a percentile above 0 and up to 100, a time above 0 and a share of "
                "failures of 0 or more and below 1",
            )

    @classmethod
    def of_text(cls, text: str, failed_share: float) -> Objective:
        """Such as "p99<50ms". Raises InvalidArgument (BAD_OBJECTIVE)."""
        match = OBJECTIVE.fullmatch(text.strip())
        if match is None:
            raise InvalidArgument(
                "BAD_OBJECTIVE", f"objective {text!r}: expected a form such as p99<50ms"
            )
        percentile, limit, unit = match.groups()
        return cls(float(percentile), float(limit) * UNITS_S[unit], failed_share)

    def __str__(self) -> str:
        return f"p{self.percentile:g}<={self.limit_s * 1e3:g}ms"


@dataclass(frozen=True, slots=True)
class Trial:
    """One rate that was tried, in requests per second."""

    rate: float
    met: bool
    # What was missed, in words; empty where the objective was met.
    cause: str = ""
    # Whether the generator was too slow for the trial to say anything of the server.
    inconclusive: bool = False


def judged(rate: float, result: LoadResult, objective: Objective) -> Trial:
    """Whether a load at `rate` met the objective.

    A trial that was met is believed even of a late generator: lateness only adds to latencies.
    """
    total = result.total
    lost = total.offered - total.answered
    share = lost / total.offered if total.offered else 1.0
    latency_s = total.latencies.percentile_s(objective.percentile)
    if share > objective.failed_share:
        return Trial(rate, False, f"{share:.1%} not answered", not result.kept_up)
    if latency_s > objective.limit_s:
        cause = f"p{objective.percentile:g} {latency_s * 1e3:.1f} ms"
        return Trial(rate, False, cause, not result.kept_up)
    return Trial(rate, True)


@dataclass(slots=True)
class CapacitySearch:
    """One search, from a first rate to a relative precision."""

    first_rate: float
    # The search ends once the lowest miss is at most so much above the highest rate that held.
    precision: float = 0.05
    # Never tried above it.
    most_rate: float = 1e6
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not LOWEST_RATE <= self.first_rate <= self.most_rate:
            raise InvalidArgument(
                "BAD_RATE",
                f"first rate {self.first_rate:g}: expected {LOWEST_RATE:g} to {self.most_rate:g}",
            )
        if not 0.001 <= self.precision < 1:
            raise InvalidArgument(
                "BAD_PRECISION", f"precision {self.precision:g}: expected 0.001 to 1"
            )

    @property
    def capacity(self) -> float:
        """The highest rate that held; 0 where none did."""
        return max((trial.rate for trial in self.trials if trial.met), default=0.0)

    @property
    def lowest_miss(self) -> float | None:
        """The lowest rate above it that missed, None where none did."""
        missed = [trial.rate for trial in self.trials if not trial.met]
        return min((rate for rate in missed if rate > self.capacity), default=None)

    @property
    def limited_by_generator(self) -> bool:
        """Whether the server might do more: the lowest miss was the generator's."""
        return any(trial.inconclusive for trial in self.trials if trial.rate == self.lowest_miss)

    def on_trial(self, trial: Trial) -> None:
        """A trial has ended."""
        self.trials.append(trial)

    def next_rate(self) -> float | None:
        """What to try next; None once the capacity is known."""
        held, missed = self.capacity, self.lowest_miss
        if missed is None:
            if held >= self.most_rate:
                return None
            return min(held * 2, self.most_rate) if held else self.first_rate
        if not held:
            return missed / 2 if missed / 2 >= LOWEST_RATE else None
        if missed - held <= self.precision * held:
            return None
        return (held + missed) / 2
