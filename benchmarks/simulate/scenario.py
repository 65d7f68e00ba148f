"""What a scenario is: cases that are run for many seeds, what they found, and what is judged.

A case gives named figures for a seed. Everything is shown as the mean over seeds with its 95 %
confidence interval, and judged by the mean.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan, sqrt

from benchmarks.simulate.outcome import Figures

# Seed and simulated seconds in, figures out.
RunCase = Callable[[int, float], Figures]

# Student's t for 95 %, by degrees of freedom; beyond the last one the normal distribution's.
T_95 = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160)
T_95_MANY = 2.1


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean over seeds, give or take; both not a number where nothing was found."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Of one value for each seed; those that are not a number are left out."""
        found = [value for value in values if not isnan(value)]
        if not found:
            return cls(nan, nan)
        count = len(found)
        if count == 1:
            return cls(found[0], nan)
        t = T_95[count - 2] if count - 2 < len(T_95) else T_95_MANY
        return cls(statistics.fmean(found), t * statistics.stdev(found) / sqrt(count))


@dataclass(frozen=True, slots=True)
class Column:
    """A figure in a table: shown times `scale` with so many digits."""

    figure: str
    title: str
    scale: float = 1.0
    digits: int = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was to be reached, what was, and whether that will do; `at_least` or else at most."""

    what: str
    estimate: Estimate
    bound: float
    at_least: bool
    scale: float = 1.0
    digits: int = 1

    @property
    def reached(self) -> bool:
        """Whether the mean is on the right side of the bound."""
        mean = self.estimate.mean
        return mean >= self.bound if self.at_least else mean <= self.bound


@dataclass(frozen=True, slots=True)
class Case:
    """One row of a table: a situation and a policy."""

    name: str
    run: RunCase


@dataclass(slots=True)
class Found:
    """Figures by case, a value for each seed in order of seeds."""

    by_case: dict[str, list[Figures]] = field(default_factory=dict)

    def values(self, case: str, figure: str) -> list[float]:
        """One for each seed."""
        return [figures.get(figure, nan) for figures in self.by_case.get(case, ())]

    def estimate(self, case: str, figure: str) -> Estimate:
        """Over seeds."""
        return Estimate.of(self.values(case, figure))

    def ratio(self, case: str, other: str, figure: str) -> Estimate:
        """Of two cases, seed by seed: both saw the same arrivals."""
        pairs = zip(self.values(case, figure), self.values(other, figure), strict=True)
        return Estimate.of([one / two if two else nan for one, two in pairs])

    def least(self, cases: Sequence[str], figure: str) -> str:
        """The case whose mean is the smallest."""
        return min(cases, key=lambda case: self.estimate(case, figure).mean)


Judge = Callable[[Found], list[Verdict]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A table: what it shows in a sentence, its cases, columns, and targets.

    `seconds` are simulated, for each case and seed.
    """

    name: str
    about: str
    cases: Sequence[Case]
    columns: Sequence[Column]
    seconds: float
    judge: Judge = lambda found: []


def at_least(
    what: str, estimate: Estimate, bound: float, scale: float = 1.0, digits: int = 1
) -> Verdict:
    """The mean has to be the bound or more."""
    return Verdict(what, estimate, bound, True, scale, digits)


def at_most(
    what: str, estimate: Estimate, bound: float, scale: float = 1.0, digits: int = 1
) -> Verdict:
    """The mean has to be the bound or less."""
    return Verdict(what, estimate, bound, False, scale, digits)


PERCENT = 100.0
GOODPUT = Column("goodput", "goodput % of capacity", PERCENT)
IN_SLO = Column("in_slo", "% in SLO", PERCENT, 2)
LATE = Column("late", "% of answers late", PERCENT, 3)
P50 = Column("p50_ms", "p50 ms")
P99 = Column("p99_ms", "p99 ms")
REFUSED = Column("refused", "% refused", PERCENT)
GIVEN_UP = Column("given_up", "% given up", PERCENT)
USUAL = (GOODPUT, IN_SLO, LATE, P50, P99)

ByName = Mapping[str, Scenario]
