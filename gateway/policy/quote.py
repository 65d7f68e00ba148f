"""What a model's replicas can do, as dispatch tells the backlog, and when they would answer."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.policy.lane import INFINITY


@dataclass(frozen=True, slots=True)
class Quote:
    """What a model's replicas can do: as far as is known, in seconds.

    A batch of one row takes `first_s`, each row more adds `more_s`, margin included. While all
    replicas run batches of `best` rows, one of them ends every `batch_s`; nobody is free before
    `free_at`. After `until` it is too old to refuse anything: a request has to pass for somebody
    to learn from.
    """

    first_s: float = 0.0
    more_s: float = 0.0
    best: int = 1
    batch_s: float = 0.0
    free_at: float = 0.0
    until: float = INFINITY

    @property
    def row_s(self) -> float:
        """Time between two rows while all replicas are busy."""
        return self.batch_s / self.best

    def ends_at(self, ahead: float, rows: int, most: int, now: float) -> float:
        """When a request is answered if so many rows leave before it.

        In the very next batch if that may have so many rows (`most`), or else in its own after
        batches of the best size, whichever is sooner.
        """
        begins_at = max(now, self.free_at)
        batches, beside = divmod(ahead, self.best)
        later_s = batches * self.batch_s + self.more_s * beside
        if ahead + rows <= most:
            later_s = min(later_s, self.more_s * ahead)
        return begins_at + later_s + self.first_s + self.more_s * (rows - 1)


UNKNOWN = Quote()
