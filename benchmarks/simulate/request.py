"""A simulated request, and what became of it: one answer or one loss, never both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.policy.lane import QueueKey


@dataclass(slots=True, eq=False)
class Request:
    """A `gateway.policy.lane.Queued`; until it is answered `answered_at` is infinite.

    `lost` tells why it has no answer; `tries` counts the client's attempts before this one;
    `retry_after_s` is what a refusal told.
    """

    key: QueueKey
    arrived_at: float
    due_at: float
    rows: int = 1
    size_bytes: int = 512
    priority: int = 2
    tenant: str = ""
    order: int = 0
    answered_at: float = float("inf")
    lost: str = ""
    tries: int = 0
    retry_after_s: float | None = None
    on_lost: Callable[[Request], None] | None = None

    @property
    def ended(self) -> bool:
        """Whether it has its answer or is lost."""
        return self.answered_at < float("inf") or self.lost != ""

    @property
    def in_time(self) -> bool:
        """Whether it was answered when it was due."""
        return self.answered_at <= self.due_at

    def answer(self, now: float) -> None:
        """It is answered. Raises AssertionError if it had ended before."""
        assert not self.ended, f"answered after its end: {self}"
        self.answered_at = now

    def lose(self, why: str) -> None:
        """It ends without an answer. Raises AssertionError if it had ended before."""
        assert not self.ended, f"lost after its end: {self}"
        self.lost = why
        if self.on_lost is not None:
            self.on_lost(self)
