"""What replicas can do at most, worked out apart from the policies that are measured by it."""

from __future__ import annotations

from dataclasses import dataclass

# Learned margins are no smaller.
MARGIN = 1.03


@dataclass(frozen=True, slots=True)
class Capacity:
    """Equal replicas: l(b) = alpha + beta b, at most `most` rows, all times in one unit.

    `objective` is the time from a request's arrival until it is due, without the way.
    """

    replicas: int
    alpha: float
    beta: float
    most: int
    objective: float

    @property
    def best_rows(self) -> int:
        """b*: max b <= most with (1 + 1/N) * m * l(b) <= objective; at least 1."""
        span = self.objective / ((1 + 1 / self.replicas) * MARGIN)
        # What fits exactly, fits in spite of rounding.
        return min(max(int((span - self.alpha) / self.beta + 1e-9), 1), self.most)

    @property
    def rate(self) -> float:
        """Rows in a unit of time: N * b* / l(b*)."""
        return self.replicas * self.best_rows / (self.alpha + self.beta * self.best_rows)
