"""When a run publishes: every N steps, every T seconds, on improvement of a metric, on request.

Decides that whatever is due at one moment is one publication, that weights which were published
are not published again because time went by, and that a publication which the store refused is
due again a little later. Publishing itself, and what a version holds, are left to the job.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

# Seconds before a publication that failed is due again.
RETRY_S = 2.0


@dataclass(frozen=True, slots=True)
class PublishRule:
    """A field at zero or empty is off; any that is due publishes."""

    every_steps: int = 0
    every_s: float = 0.0
    metric: str = ""
    minimize: bool = False


class Reason(IntEnum):
    """Why a publication is due; of several, the smallest is named."""

    REQUEST = 1
    INITIAL = 2
    FINAL = 3
    METRIC = 4
    STEPS = 5
    SECONDS = 6


@dataclass(frozen=True, slots=True)
class PublishSnapshot:
    """The policy at one moment; `best` and `published_step` carry it over a restart."""

    step: int
    published_step: int
    best: float | None
    due: tuple[Reason, ...]


# These publish the same weights again; the others need a step since the last publication.
_ALWAYS = frozenset({Reason.REQUEST, Reason.INITIAL})


class PublishPolicy:
    """`step` is where the run stands, `published_step` the step last published.

    A run that begins has published nothing, but its fresh weights are no news either: on a model
    that has versions they would be a step back.
    """

    def __init__(
        self,
        rule: PublishRule,
        *,
        now: float,
        step: int = 0,
        published_step: int | None = None,
        best: float | None = None,
    ) -> None:
        self._rule = rule
        self._step = step
        self._published_step = step if published_step is None else published_step
        self._before_taken = self._published_step
        self._best = best
        self._due: set[Reason] = set()
        self._taken: frozenset[Reason] = frozenset()
        self._due_at = now + rule.every_s
        self._retry_at = -math.inf

    def on_no_version(self) -> None:
        """The model has no version yet: replicas wait for a first one."""
        self._due.add(Reason.INITIAL)

    def on_request(self) -> None:
        """Somebody asked for a publication."""
        self._due.add(Reason.REQUEST)

    def on_step(self, step: int) -> None:
        """The optimizer made its `step`-th step."""
        every = self._rule.every_steps
        if every and step // every > self._step // every:
            self._due.add(Reason.STEPS)
        self._step = step

    def on_evaluation(self, metrics: Mapping[str, float]) -> None:
        """The run was evaluated; a metric that is missing or not finite improves nothing."""
        value = metrics.get(self._rule.metric, math.nan) if self._rule.metric else math.nan
        if math.isfinite(value) and self._improves(value):
            self._best = value
            self._due.add(Reason.METRIC)

    def on_end(self) -> None:
        """The last step was made; a run gated by a metric alone has no claim to publish it."""
        if self._rule.every_steps or self._rule.every_s:
            self._due.add(Reason.FINAL)

    def take_due(self, now: float) -> Reason | None:
        """Why to publish now, None if there is no reason; it is no longer due after."""
        if now < self._retry_at:
            return None
        if self._rule.every_s and now >= self._due_at:
            self._due.add(Reason.SECONDS)
        if not self._has_news():
            self._due &= _ALWAYS
        if not self._due:
            return None
        self._taken = frozenset(self._due)
        self._due.clear()
        self._before_taken, self._published_step = self._published_step, self._step
        self._due_at = self._next_due_at(now)
        return min(self._taken)

    def on_failed(self, now: float) -> None:
        """What was taken could not be published."""
        self._due |= self._taken
        self._published_step = self._before_taken
        self._retry_at = _later(now, now + RETRY_S)

    def next_wakeup(self) -> float | None:
        """When something may be due if nothing happens until then."""
        if self._due:
            return self._retry_at
        if self._rule.every_s and self._has_news():
            return max(self._due_at, self._retry_at)
        return None

    def snapshot(self) -> PublishSnapshot:
        """The numbers behind the decisions."""
        return PublishSnapshot(
            self._step, self._published_step, self._best, tuple(sorted(self._due))
        )

    def __repr__(self) -> str:
        return f"PublishPolicy({self._rule}, {self.snapshot()})"

    def _has_news(self) -> bool:
        return self._step > self._published_step

    def _next_due_at(self, now: float) -> float:
        # On the grid of the seconds that were due, so that a publication's own length does not
        # stretch the period; afresh after another reason or a long absence.
        on_grid = self._due_at + self._rule.every_s
        if Reason.SECONDS in self._taken and on_grid > now:
            return on_grid
        return _later(now, now + self._rule.every_s)

    def _improves(self, value: float) -> bool:
        if self._best is None:
            return True
        return value < self._best if self._rule.minimize else value > self._best


def _later(now: float, wanted: float) -> float:
    """`wanted`, or the next number after `now` where a span is too small to move the clock."""
    return max(wanted, math.nextafter(now, math.inf))
