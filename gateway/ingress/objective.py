"""The latency objectives: how long a request of each class may take, whatever its deadline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from chassis.errors import InvalidArgument
from gateway.policy.way import Way

MILLISECONDS = 1000
# What is left of a deadline for the way from a replica's answer to the caller, at least; measured
# ways say how much more.
REPLY_S = 0.001
# Of a short deadline no more than this share.
REPLY_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Objectives:
    """Seconds by class; a class without one has only its requests' deadlines."""

    by_class: Mapping[int, float] = field(default_factory=dict)
    # To an endpoint and back, which stands for that from an endpoint's answer to the caller.
    way: Way = field(default_factory=Way)

    @classmethod
    def of(cls, texts: Sequence[str], levels: int, way: Way) -> Objectives:
        """Of "50" (milliseconds, every class) or "1=50", "3=1000".

        Raises InvalidArgument (BAD_SETTING).
        """
        by_class: dict[int, float] = {}
        for text in texts:
            level, _, span = text.rpartition("=")
            ranks = range(1, levels + 1) if not level else [_level(level, levels)]
            for rank in ranks:
                by_class[rank] = _milliseconds(span) / MILLISECONDS
        return cls(by_class, way)

    def bind(self, priority: int, arrived_at: float, deadline: float) -> bool:
        """Whether the objective ends before the deadline."""
        return arrived_at + self.by_class.get(priority, float("inf")) < deadline

    def due_at(self, priority: int, arrived_at: float, deadline: float) -> float:
        """By when a replica must have answered a request."""
        objective_s = self.by_class.get(priority)
        if objective_s is not None:
            deadline = min(deadline, arrived_at + objective_s)
        reply_s = max(self.way.most_s, REPLY_S)
        return deadline - min(reply_s, (deadline - arrived_at) * REPLY_SHARE)


NO_OBJECTIVES = Objectives()


def _level(text: str, levels: int) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= levels:
        return int(text)
    raise InvalidArgument(
        "BAD_SETTING",
        f"setting gateway.latency_objective_ms names class {text[:32]!r}; expected 1 to "
        f"priority_levels, {levels}",
    )


def _milliseconds(text: str) -> float:
    try:
        span = float(text)
    except ValueError:
        span = -1.0
    if span > 0:
        return span
    raise InvalidArgument(
        "BAD_SETTING",
        f"setting gateway.latency_objective_ms has {text[:32]!r}; expected milliseconds above 0, "
        "such as 50, or by class, such as 1=50,3=1000",
    )
