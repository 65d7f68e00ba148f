"""Requests of one key in the order in which they leave: rank, then earliest deadline, then arrival.

A request's rank is its priority, 1 the highest. Requests of a sequence leave in order of arrival
whatever else they ask for: their rank is their order of arrival.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
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
    # The sequence (see `sequences`) whose requests these are, each a batch of its own; 0 for none.
    sequence: int = 0


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

    @property
    def priority(self) -> int:
        """Its level; 1 leaves first."""

    order: int


R = TypeVar("R", bound=Queued)
Entry = tuple[int, float, int, R]


class Queue(Generic[R]):
    """Entries sorted by (rank, deadline, order); appended in the common case of equal timeouts.

    Deadlines are sorted within a rank only. `earliest` is never later than the earliest deadline:
    exact where all entries share a rank, else until the entry it came from has left.
    `due` is for the backlog's use: whether a batch of it is worth sending.
    """

    __slots__ = ("due", "earliest", "entries", "oldest_at", "rows")

    def __init__(self) -> None:
        self.entries: list[Entry[R]] = []
        self.rows = 0
        # No entry arrived before this; exact after `renew_oldest`.
        self.oldest_at = float("inf")
        self.earliest = float("inf")
        self.due = False

    @property
    def urgency(self) -> tuple[int, float, int]:
        """Of the request that leaves next: what queues are compared by. Not of an empty queue."""
        _, deadline, order, request = self.entries[0]
        return request.priority, deadline, order

    def add(self, request: R) -> None:
        """Puts a request where it belongs."""
        entry = (_rank(request), request.deadline, request.order, request)
        if not self.entries or self.entries[-1] < entry:
            self.entries.append(entry)
        else:
            insort(self.entries, entry)
        self.rows += request.rows
        self.oldest_at = min(self.oldest_at, request.arrived_at)
        self.earliest = min(self.earliest, request.deadline)

    def pop_first(self, count: int) -> list[R]:
        """Takes out the first `count` requests."""
        taken = [request for _, _, _, request in self.entries[:count]]
        del self.entries[:count]
        self._left(taken)
        return taken

    def pop_late(self, late: Callable[[float], bool]) -> list[R]:
        """Takes out the requests whose deadline is `late`; what is late is so at any earlier one.

        Without a late one it looks at one deadline, however many wait.
        """
        if not late(self.earliest):
            return []
        spans = [(start, self._late_until(start, end, late)) for start, end in self._levels()]
        taken = [request for at, end in spans for _, _, _, request in self.entries[at:end]]
        for start, end in reversed(spans):
            del self.entries[start:end]
        self._left(taken)
        self.earliest = min((self.entries[at][1] for at, _ in self._levels()), default=float("inf"))
        return taken

    def pop_arrived(self, by: Callable[[float], bool]) -> list[R]:
        """Takes out the requests whose time of arrival satisfies `by`."""
        taken = [request for _, _, _, request in self.entries if by(request.arrived_at)]
        if taken:
            self.entries = [entry for entry in self.entries if not by(entry[3].arrived_at)]
            self._left(taken)
        self.renew_oldest()
        return taken

    def remove(self, request: R) -> bool:
        """Takes one request out; False if it is not here."""
        at = bisect_left(self.entries, (_rank(request), request.deadline, request.order))
        if at == len(self.entries) or self.entries[at][3] is not request:
            return False
        del self.entries[at]
        self._left([request])
        return True

    def renew_oldest(self) -> None:
        """Makes `oldest_at` exact."""
        arrivals = (request.arrived_at for _, _, _, request in self.entries)
        self.oldest_at = min(arrivals, default=float("inf"))

    def _levels(self) -> Iterator[tuple[int, int]]:
        """Where each rank's entries begin and end."""
        start, count = 0, len(self.entries)
        while start < count:
            rank = self.entries[start][0]
            several = rank != self.entries[-1][0]
            end = bisect_left(self.entries, (rank + 1,), start) if several else count
            yield start, end
            start = end

    def _late_until(self, start: int, end: int, late: Callable[[float], bool]) -> int:
        while start < end and late(self.entries[start][1]):
            start += 1
        return start

    def _left(self, requests: Iterable[R]) -> None:
        self.rows -= sum(request.rows for request in requests)
        self.due = False
        if not self.entries:
            self.earliest = float("inf")
        elif self.entries[0][0] == self.entries[-1][0]:
            self.earliest = self.entries[0][1]


def _rank(request: Queued) -> int:
    return request.order if request.key.sequence else request.priority
