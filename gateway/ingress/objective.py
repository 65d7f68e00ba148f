"""The latency objectives: how long a request of each class may take, whatever its deadline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from chassis.errors import InvalidArgument

MILLISECONDS = 1000
# What is left of a deadline for the way from a replica's answer to the caller, at least; measured
# ways (`Objectives.on_way`) say how much more: their mean and so many mean deviations, as TCP waits
# for an acknowledgement (RFC 6298, section 2). By the mean alone every other answer would be late.
REPLY_S = 0.001
DEVIATIONS = 4
# Of a short deadline no more than this share.
REPLY_SHARE = 0.05
# Of a new measurement in the mean, and in the mean deviation.
MEAN_WEIGHT = 1 / 8
DEVIATION_WEIGHT = 1 / 4


@dataclass(slots=True)
class Objectives:
    """Seconds by class; a class without one has only its requests' deadlines."""

    by_class: Mapping[int, float] = field(default_factory=dict)
    # Seconds from a replica's answer to the caller: nearly all are sooner.
    reply_s: float = REPLY_S
    _way_s: float = 0.0
    _deviation_s: float = 0.0

    @classmethod
    def of(cls, texts: Sequence[str], levels: int) -> Objectives:
        """Of "50" (milliseconds, every class) or "1=50", "3=1000".

        Raises InvalidArgument (BAD_SETTING).
        """
        by_class: dict[int, float] = {}
        for text in texts:
            level, _, span = text.rpartition("=")
            ranks = range(1, levels + 1) if not level else [_level(level, levels)]
            for rank in ranks:
                by_class[rank] = _milliseconds(span) / MILLISECONDS
        return cls(by_class)

    def on_way(self, seconds: float) -> None:
        """So long took a question to an endpoint, through the same loop as answers to callers."""
        if not self._way_s:
            self._way_s, self._deviation_s = seconds, seconds / 2
        off_s = seconds - self._way_s
        self._deviation_s += DEVIATION_WEIGHT * (abs(off_s) - self._deviation_s)
        self._way_s += MEAN_WEIGHT * off_s
        self.reply_s = max(self._way_s + DEVIATIONS * self._deviation_s, REPLY_S)

    def bind(self, priority: int, arrived_at: float, deadline: float) -> bool:
        """Whether the objective ends before the deadline."""
        return arrived_at + self.by_class.get(priority, float("inf")) < deadline

    def due_at(self, priority: int, arrived_at: float, deadline: float) -> float:
        """By when a replica must have answered a request."""
        objective_s = self.by_class.get(priority)
        if objective_s is not None:
            deadline = min(deadline, arrived_at + objective_s)
        return deadline - min(self.reply_s, (deadline - arrived_at) * REPLY_SHARE)


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
