"""A simulated request, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.policy.queue import QueueKey


@dataclass(slots=True, eq=False)
class Request:
    """A `gateway.policy.queue.Queued`; until it is answered `answered_at` is infinite."""

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
    attempts: int = 0

    @property
    def in_time(self) -> bool:
        """Whether it was answered when it was due."""
        return self.answered_at <= self.due_at
