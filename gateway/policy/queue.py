"""Requests of one key in the order in which they leave: earliest deadline first, then arrival."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, Protocol, TypeVar


class QueueKey(NamedTuple):
    """What requests must share to travel in one batch.

    `version` is 0 where none is pinned; `carried` are the parameters that change an answer;
    `shapes` are the per-row shapes of the inputs, empty where the signature fixes them;
    `max_rows` bounds a batch, and 0 stands for a model whose batch is one request.
    """

    model: str
    version: int
    carried: tuple[tuple[str, str | int], ...]
    shapes: tuple[tuple[int, ...], ...]
    max_rows: int
    # Tells apart requests that were checked against different signatures of one model.
    signature_id: int = 0
    # Each request is a batch of its own and answered by any number of responses.
    decoupled: bool = False


class Queued(Protocol):
    """What this core needs to know about a request; times are points on one clock."""

    @property
    def key(self) -> QueueKey:
        """The queue it belongs to."""

    @property
    def rows(self) -> int:
        """Rows it adds to a batch."""

    @property
    def size_bytes(self) -> int:
        """Bytes it holds while it waits."""

    @property
    def deadline(self) -> float:
        """When its answer is worthless."""

    @property
    def arrived_at(self) -> float:
        """When it came."""

    order: int


R = TypeVar("R", bound=Queued)


class Queue(Generic[R]):
    """Entries sorted by (deadline, order); appended in the common case of equal timeouts.

    `due` is for the backlog's use: whether a batch of it is worth sending.
    """

    __slots__ = ("due", "entries", "oldest_at", "rows")

    def __init__(self) -> None:
        self.entries: list[tuple[float, int, R]] = []
        self.rows = 0
        # No entry arrived before this; exact after `renew_oldest`.
        self.oldest_at = float("inf")
        self.due = False

    def add(self, request: R) -> None:
        """Puts a request where it belongs."""
        entry = (request.deadline, request.order, request)
        if not self.entries or self.entries[-1] < entry:
            self.entries.append(entry)
        else:
            insort(self.entries, entry)
        self.rows += request.rows
        self.oldest_at = min(self.oldest_at, request.arrived_at)

    def pop_first(self, count: int) -> list[R]:
        """Takes out the first `count` requests."""
        taken = [request for _, _, request in self.entries[:count]]
        del self.entries[:count]
        self._left(taken)
        return taken

    def pop_arrived(self, by: Callable[[float], bool]) -> list[R]:
        """Takes out the requests whose time of arrival satisfies `by`."""
        taken = [request for _, _, request in self.entries if by(request.arrived_at)]
        if taken:
            self.entries = [entry for entry in self.entries if not by(entry[2].arrived_at)]
            self._left(taken)
        self.renew_oldest()
        return taken

    def remove(self, request: R) -> bool:
        """Takes one request out; False if it is not here."""
        at = bisect_left(self.entries, (request.deadline, request.order))
        if at == len(self.entries) or self.entries[at][2] is not request:
            return False
        del self.entries[at]
        self._left([request])
        return True

    def renew_oldest(self) -> None:
        """Makes `oldest_at` exact."""
        arrivals = (request.arrived_at for _, _, request in self.entries)
        self.oldest_at = min(arrivals, default=float("inf"))

    def _left(self, requests: Iterable[R]) -> None:
        self.rows -= sum(request.rows for request in requests)
        self.due = False
