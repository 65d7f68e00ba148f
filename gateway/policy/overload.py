"""Whom overload hits, in stages: the lowest classes first, then tenants over their share, then all.

The stages are not switched; they follow from the order in which requests leave (`queue`) and from
what is refused for it. This only names the stage that is seen: the gravest one of the last second.
"""

from __future__ import annotations

from enum import IntEnum

# Seconds for which what happened tells of now.
MEMORY_S = 1.0


class Stage(IntEnum):
    """Who is turned away."""

    NOBODY = 0
    LOWER_CLASSES = 1
    TENANTS_OVER_SHARE = 2
    EVERYBODY = 3


class Overload:
    """Hears of each request that is let in or turned away; `now` is a point on one clock."""

    def __init__(self) -> None:
        self._seen_at: dict[int, float] = {}
        self._happened_at = dict.fromkeys(Stage, float("-inf"))

    def on_offered(self, priority: int, now: float) -> None:
        """A request of that class came."""
        self._seen_at[priority] = now

    def on_turned_away(self, priority: int, *, over_share: bool, now: float) -> None:
        """A request was refused, evicted or given up; `over_share`: its tenant has too many."""
        recent = (rank for rank, at in self._seen_at.items() if at > now - MEMORY_S)
        if min(recent, default=priority) < priority:
            stage = Stage.LOWER_CLASSES
        else:
            stage = Stage.TENANTS_OVER_SHARE if over_share else Stage.EVERYBODY
        self._happened_at[stage] = now

    def stage(self, now: float) -> Stage:
        """The gravest stage of the last second."""
        return max(
            (stage for stage, at in self._happened_at.items() if at > now - MEMORY_S),
            default=Stage.NOBODY,
        )
