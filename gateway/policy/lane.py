"""What waits: the key that requests share, and one tenant's requests of one class in order.

Within a lane the request that has to be answered first leaves first (earliest deadline first),
equal ones in order of arrival. The requests of a sequence leave in order of arrival, whatever else
is said of them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, Protocol, TypeVar

INFINITY = float("inf")


class QueueKey(NamedTuple):
    """What requests must share to travel in one batch.

    `version` is 0 where none is pinned; `carried` are the parameters that change an answer;
    with `candidate` it is that of a rollout, and another may answer where it cannot;
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
    # Whether its requests try a rollout's candidate, the `version`.
    candidate: bool = False

    @property
    def alone(self) -> bool:
        """Whether its requests are sent one by one, outside the order of batches."""
        return self.decoupled or self.sequence != 0


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
    def due_at(self) -> float:
        """By when it must be answered: its deadline, or its objective if that is sooner."""

    @property
    def arrived_at(self) -> float:
        """When it came."""

    @property
    def priority(self) -> int:
        """Its class; 1 leaves first."""

    @property
    def tenant(self) -> str:
        """On whose account its rows go."""

    order: int


R = TypeVar("R", bound=Queued)
# When it is due (or its order, in a sequence), its order, itself.
Entry = tuple[float, int, R]


class Lane(Generic[R]):
    """The requests of one tenant in one class, sorted; appended to in the common case.

    `earliest` is never later than the earliest `due_at`; exact unless these are a sequence's.
    """

    __slots__ = ("earliest", "entries", "rows", "sequence")

    def __init__(self, *, sequence: bool) -> None:
        self.entries: list[Entry[R]] = []
        self.rows = 0
        self.earliest = INFINITY
        self.sequence = sequence

    def add(self, request: R) -> None:
        """Puts a request where it belongs."""
        entry = self._entry(request)
        if not self.entries or self.entries[-1] < entry:
            self.entries.append(entry)
        else:
            insort(self.entries, entry)
        self.rows += request.rows
        self.earliest = min(self.earliest, request.due_at)

    def remove(self, request: R) -> bool:
        """Takes one request out; False if it is not here."""
        at = bisect_left(self.entries, self._entry(request))
        if at == len(self.entries) or self.entries[at][2] is not request:
            return False
        del self.entries[at]
        self._left([request])
        return True

    def pop_first(self, count: int) -> list[R]:
        """Takes out the first `count` requests."""
        taken = [request for _, _, request in self.entries[:count]]
        del self.entries[:count]
        self._left(taken)
        return taken

    def pop_last(self) -> R:
        """Takes out the one that is due last. Raises IndexError if there is none."""
        request = self.entries.pop()[2]
        self._left([request])
        return request

    def pop_due(self, by: float) -> list[R]:
        """Takes out the requests that are due by then; looks at one of them if there is none."""
        if self.earliest > by:
            return []
        if not self.sequence:
            return self.pop_first(bisect_left(self.entries, (by, INFINITY)))
        return self.pop_where(lambda request: request.due_at <= by)

    def pop_where(self, chosen: Callable[[R], bool]) -> list[R]:
        """Takes out the requests that are `chosen`; looks at each of them."""
        taken = [request for _, _, request in self.entries if chosen(request)]
        if taken:
            self.entries = [entry for entry in self.entries if not chosen(entry[2])]
            self._left(taken)
        return taken

    def rows_due(self, by: float) -> int:
        """About how many rows are due by then, if all requests have as many."""
        count = len(self.entries)
        if not count or self.entries[-1][0] <= by:
            return self.rows
        return self.rows * bisect_left(self.entries, (by, INFINITY)) // count

    def _entry(self, request: R) -> Entry[R]:
        return (float(request.order) if self.sequence else request.due_at, request.order, request)

    def _left(self, requests: Iterable[R]) -> None:
        self.rows -= sum([request.rows for request in requests])
        if self.sequence:
            self.earliest = min(
                (request.due_at for _, _, request in self.entries), default=INFINITY
            )
        else:
            self.earliest = self.entries[0][0] if self.entries else INFINITY
