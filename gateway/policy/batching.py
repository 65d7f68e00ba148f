"""Which requests wait, in what order they leave, and when a batch of them is worth sending.

One queue per key (requests of one key can be joined); in a queue the highest priority leaves first,
then the earliest deadline, equal ones in order of arrival; between queues likewise. A batch is due
as soon as anything waits, or, with a queue delay, once it is full or its oldest request has waited
that long. Batch-while-busy follows: what arrives while every endpoint is busy leaves together when
one is free. Behind a running batch only a large one is sent. A request of a sequence is a batch of
its own: nothing is gained by letting it wait.

Which endpoint takes a batch is decided in `balance`; what a refusal or an expiry means to a caller
is the shell's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic

from gateway.policy.queue import Queue, QueueKey, R

# Share of a full batch that may be sent to an endpoint with another one in flight.
FOLLOWING_SHARE = 0.5

# The largest batch, in rows, that still meets a deadline; below 1 nothing does. Never smaller for a
# later deadline.
Fit = Callable[[float], int]


@dataclass(frozen=True, slots=True)
class Admit:
    """The request waits now."""


@dataclass(frozen=True, slots=True)
class Reject:
    """The request was not taken: QUEUE_FULL, QUEUE_BYTES_FULL or DEADLINE_EXCEEDED."""

    reason: str


ADMIT = Admit()


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """One queue: what waits, and the earliest deadline in it."""

    key: QueueKey
    requests: int
    rows: int
    size_bytes: int
    deadline: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The backlog: totals over all queues, and each queue that is not empty."""

    requests: int
    size_bytes: int
    queues: tuple[QueueSnapshot, ...]


class Backlog(Generic[R]):
    """All queues of a gateway, bounded together in requests and bytes."""

    def __init__(
        self,
        *,
        max_requests: int,
        max_bytes: int,
        delay_s: float = 0.0,
        max_batch_bytes: int = 2**62,
    ) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._delay_s = delay_s
        self._max_batch_bytes = max_batch_bytes
        self._queues: dict[QueueKey, Queue[R]] = {}
        self._requests = 0
        self._bytes = 0
        self._arrivals = 0

    def __len__(self) -> int:
        return self._requests

    def offer(self, request: R, now: float) -> Admit | Reject:
        """Takes the request unless a bound is reached or its deadline has passed."""
        refused = self.refusal(request, now)
        if refused is not None:
            return refused
        self._arrivals += 1
        request.order = self._arrivals
        queue = self._queues.get(request.key)
        if queue is None:
            queue = self._queues[request.key] = Queue()
        queue.add(request)
        self._requests += 1
        self._bytes += request.size_bytes
        return ADMIT

    def refusal(self, request: R, now: float) -> Reject | None:
        """Why `offer` would not take the request; None if it would."""
        if request.deadline <= now:
            return Reject("DEADLINE_EXCEEDED")
        if self._requests >= self._max_requests:
            return Reject("QUEUE_FULL")
        if self._bytes + request.size_bytes > self._max_bytes:
            return Reject("QUEUE_BYTES_FULL")
        return None

    def withdraw(self, request: R) -> bool:
        """Takes out a request that nobody waits for any more; False if it has left already."""
        queue = self._queues.get(request.key)
        if queue is None or not queue.remove(request):
            return False
        self._released(request.key, queue, [request])
        return True

    def prune(self, now: float, fit: Fit) -> list[R]:
        """Takes out the requests whose deadline no batch can meet, the expired among them."""

        def late(deadline: float) -> bool:
            return deadline <= now or fit(deadline) < 1

        dropped: list[R] = []
        for key, queue in list(self._queues.items()):
            gone = queue.pop_late(late)
            if gone:
                self._released(key, queue, gone)
                dropped += gone
        return dropped

    def give_up(self, key: QueueKey, waited_s: float, now: float) -> list[R]:
        """Takes the requests out of one queue that have waited that long."""
        queue = self._queues.get(key)
        if queue is None:
            return []
        dropped = queue.pop_arrived(lambda at: at + waited_s <= now)
        self._released(key, queue, dropped)
        return dropped

    def waiting(self) -> list[QueueKey]:
        """Keys of the queues in which something waits."""
        return list(self._queues)

    def oldest_at(self, key: QueueKey) -> float:
        """No request of the queue arrived before this point; infinite for an empty queue."""
        queue = self._queues.get(key)
        return queue.oldest_at if queue else float("inf")

    def due(self, now: float) -> list[QueueKey]:
        """Keys of the queues with a batch worth sending, the most urgent first."""
        queues = self._queues
        if len(queues) == 1:
            return [key for key, queue in queues.items() if self._is_due(key, queue, now)]
        found = [key for key, queue in queues.items() if self._is_due(key, queue, now)]
        return sorted(found, key=lambda key: queues[key].urgency)

    def worth_following(self, key: QueueKey) -> bool:
        """Whether what waits may queue up behind a running batch instead of growing meanwhile.

        Half a batch is: under load it spares the endpoint the pause between two batches. Less
        would cut a batch into crumbs that each cost as much to start.
        """
        queue = self._queues.get(key)
        if queue is None:
            return False
        return key.sequence != 0 or queue.rows >= key.max_rows * FOLLOWING_SHARE

    def take(self, key: QueueKey, rows: int, now: float) -> list[R]:
        """The next batch of a queue: at most `rows` rows, in order, none skipped.

        One request alone may exceed `rows`; `rows` 0 takes one request, and so does any of a
        sequence. Empty for an empty queue.
        """
        queue = self._queues.get(key)
        if queue is None:
            return []
        taken = queue.pop_first(self._count_of_batch(queue, 0 if key.sequence else rows))
        if self._delay_s:
            queue.renew_oldest()
        self._released(key, queue, taken)
        return taken

    def next_wakeup(self) -> float | None:
        """When a request expires or a delayed batch becomes due; None while nothing waits.

        After `prune(now)` and `due(now)` this is later than `now`: a queue that is due waits for
        an endpoint, not for time. It may be early: a queue of several ranks keeps a bound.
        """
        at = min((queue.earliest for queue in self._queues.values()), default=None)
        if at is None or not self._delay_s:
            return at
        ripe = (
            queue.oldest_at + self._delay_s
            for key, queue in self._queues.items()
            if not queue.due and not key.sequence
        )
        return min(at, min(ripe, default=at))

    def snapshot(self) -> Snapshot:
        """What waits now."""
        queues = (
            QueueSnapshot(
                key,
                len(queue.entries),
                queue.rows,
                sum(request.size_bytes for _, _, _, request in queue.entries),
                min(deadline for _, deadline, _, _ in queue.entries),
            )
            for key, queue in self._queues.items()
        )
        return Snapshot(self._requests, self._bytes, tuple(queues))

    def _is_due(self, key: QueueKey, queue: Queue[R], now: float) -> bool:
        queue.due = (
            not self._delay_s
            or key.sequence != 0
            or queue.rows >= max(key.max_rows, 1)
            or now >= queue.oldest_at + self._delay_s
        )
        return queue.due

    def _count_of_batch(self, queue: Queue[R], rows: int) -> int:
        count, taken_rows, taken_bytes = 0, 0, 0
        for _, _, _, request in queue.entries:
            taken_rows += request.rows
            taken_bytes += request.size_bytes
            if count and (taken_rows > rows or taken_bytes > self._max_batch_bytes):
                break
            count += 1
        return count

    def _released(self, key: QueueKey, queue: Queue[R], gone: Iterable[R]) -> None:
        for request in gone:
            self._requests -= 1
            self._bytes -= request.size_bytes
        if not queue.entries:
            del self._queues[key]
