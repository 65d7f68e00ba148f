"""Which requests wait and in what order they leave; which are refused, evicted or given up.

One queue per key (requests of one key can be joined), see `queue`. A request is refused at once if
what stands before it would make it late: it could only waste the time of a replica. What dispatch
knows of the replicas' speed comes as a `Quote`. If a bound is reached, a request of a lower class
makes room. When a batch leaves, with how many rows and to which endpoint is decided in `schedule`;
what a refusal or an expiry means to a caller is the shell's affair.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import nextafter
from typing import Any, Generic

from gateway.policy.fairness import Shares, TenantSnapshot
from gateway.policy.lane import INFINITY, QueueKey, R
from gateway.policy.queue import Queue
from gateway.policy.quote import UNKNOWN, Quote

# Rows cost so much where nothing is known: what counts then is that all cost the same.
UNKNOWN_ROW_S = 1e-4
# Refused clients are told to stay away so long at least; asked again sooner they cost more.
LEAST_RETRY_S = 0.01

# The largest batch, in rows, that answers a `due_at` in time; never smaller for a later one.
Fit = Callable[[float], int]


@dataclass(frozen=True, slots=True)
class Admit:
    """The request waits now; those `evicted` for it do not any more."""

    evicted: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Reject:
    """The request was not taken.

    DEADLINE_EXCEEDED (it has passed), DEADLINE_TOO_SHORT (for a batch by itself), WOULD_BE_LATE,
    QUEUE_FULL or QUEUE_BYTES_FULL. Asked again after `retry_after_s` seconds it may be taken.
    """

    reason: str
    retry_after_s: float | None = None


ADMIT = Admit()


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of what waits: in all, and of each class of a model (none is a bound of its own)."""

    requests: int
    size_bytes: int
    by_class: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Outline:
    """What dispatch sees of a queue: rows and requests in it, and its first request.

    `due_at` is that of the first request, `tightest_at` the earliest of all; `budget_s` is how long
    one in the middle has, from its arrival until it is due; `oldest_at` bounds the first arrival.
    """

    rows: int
    requests: int
    priority: int
    due_at: float
    tightest_at: float
    budget_s: float
    oldest_at: float


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """One queue: what waits, and the earliest `due_at` in it."""

    key: QueueKey
    requests: int
    rows: int
    size_bytes: int
    due_at: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The backlog: totals over all queues, each queue that is not empty, tenants."""

    requests: int
    size_bytes: int
    queues: tuple[QueueSnapshot, ...]
    tenants: Mapping[str, TenantSnapshot]


class Backlog(Generic[R]):
    """All queues of a gateway, bounded together in requests and bytes."""

    def __init__(
        self,
        *,
        max_requests: int,
        max_bytes: int,
        max_batch_bytes: int = 2**62,
        class_requests: Mapping[int, int] | None = None,
        weights: Mapping[str, float] | None = None,
        exact_age: bool = False,
    ) -> None:
        """`exact_age`: whether `oldest_at` has to be exact, which costs a look at each request."""
        self._bounds = Bounds(max_requests, max_bytes, class_requests or {})
        self._max_batch_bytes = max_batch_bytes
        self._exact_age = exact_age
        self._queues: dict[QueueKey, Queue[R]] = {}
        self._quotes: dict[str, Quote] = {}
        self._shares = Shares(weights or {})
        # Requests and rows that wait, by model and class.
        self._counts: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._rows: defaultdict[str, dict[int, int]] = defaultdict(dict)
        self._arrived: defaultdict[str, int] = defaultdict(int)
        # Bytes that wait, by class; without what cannot be evicted.
        self._class_bytes: defaultdict[int, int] = defaultdict(int)
        self._requests = 0
        self._bytes = 0
        self._arrivals = 0

    def __len__(self) -> int:
        return self._requests

    def quote(self, model: str, quote: Quote) -> None:
        """What the model's replicas can do from now on."""
        self._quotes[model] = quote

    def offer(self, request: R, now: float) -> Admit | Reject:
        """Takes the request, or tells why not; what it evicts from lower classes, it takes out."""
        refused = self.refusal(request, now)
        if refused is not None:
            return refused
        evicted = self._make_room(request)
        self._arrivals += 1
        request.order = self._arrivals
        queue = self._queues.get(request.key)
        if queue is None:
            queue = self._queues[request.key] = Queue(request.key)
        queue.add(request)
        model, rank = request.key.model, request.priority
        self._counts[model, rank] += 1
        rows = self._rows[model]
        rows[rank] = rows.get(rank, 0) + request.rows
        self._arrived[model] += request.rows
        if not request.key.alone:
            self._class_bytes[rank] += request.size_bytes
        self._requests += 1
        self._bytes += request.size_bytes
        self._shares.on_waiting(request.tenant)
        return Admit(tuple(evicted)) if evicted else ADMIT

    def refusal(self, request: R, now: float) -> Reject | None:
        """Why `offer` would not take the request; None if it would."""
        if request.due_at <= now:
            return Reject("DEADLINE_EXCEEDED")
        late = self._late(request, now)
        if late is not None:
            return late
        model, rank = request.key.model, request.priority
        bound = self._bounds.by_class.get(rank)
        if bound is not None and self._counts[model, rank] >= bound:
            return Reject("QUEUE_FULL", self._drain_s(model))
        lacking = self._lacking(request)
        if lacking and not self._evictable(request):
            return Reject(lacking, self._drain_s(model))
        return None

    def withdraw(self, request: R) -> bool:
        """Takes out a request that nobody waits for any more; False if it has left already."""
        queue = self._queues.get(request.key)
        if queue is None or not queue.remove(request):
            return False
        self._released(queue, [request])
        return True

    def prune(self, now: float) -> list[R]:
        """Takes out the requests that even a batch of one row would answer too late."""
        dropped: list[R] = []
        for queue in list(self._queues.values()):
            gone = queue.pop_due(now + self._first_s(queue.key, now))
            if gone:
                self._released(queue, gone)
                dropped += gone
        return dropped

    def trim(self, key: QueueKey, fit: Fit, target: int) -> list[R]:
        """Takes out the heads of a queue that keep a batch small; see `Queue.trim`."""
        queue = self._queues.get(key)
        if queue is None or key.alone:
            return []
        gone = queue.trim(fit, target)
        if gone:
            self._released(queue, gone)
        return gone

    def over_share(self, tenant: str) -> bool:
        """Whether more of the tenant waits than its weight grants."""
        return self._shares.over_share(tenant)

    def give_up(self, key: QueueKey, waited_s: float, now: float) -> list[R]:
        """Takes the requests out of one queue that have waited that long."""
        queue = self._queues.get(key)
        if queue is None:
            return []
        dropped = queue.pop_arrived(now - waited_s)
        self._released(queue, dropped)
        return dropped

    def waiting(self) -> list[QueueKey]:
        """Keys of the queues in which something waits."""
        return list(self._queues)

    def oldest_at(self, key: QueueKey) -> float:
        """No request of the queue arrived before this point; infinite for an empty queue."""
        queue = self._queues.get(key)
        return queue.oldest_at if queue else INFINITY

    def outline(self, key: QueueKey) -> Outline | None:
        """What waits in a queue; None if nothing does."""
        queue = self._queues.get(key)
        if queue is None:
            return None
        first, middle = queue.first(), queue.middle()
        return Outline(
            queue.rows,
            queue.count,
            first.priority,
            first.due_at,
            queue.earliest,
            middle.due_at - middle.arrived_at,
            queue.oldest_at,
        )

    def room(self, key: QueueKey, fit: Fit, limit: int) -> int:
        """Rows of the largest batch, of at most `limit`, in which every head is in time."""
        queue = self._queues.get(key)
        return queue.room(fit, limit) if queue is not None else 0

    def arrived(self, model: str) -> int:
        """Rows of the model that were admitted so far."""
        return self._arrived[model]

    def take(self, key: QueueKey, rows: int) -> list[R]:
        """The next batch of a queue: at most `rows` rows, in order, none skipped.

        One request alone may exceed `rows`; with `rows` 0, and of a key that is `alone`, it takes
        one request. Empty for an empty queue.
        """
        queue = self._queues.get(key)
        if queue is None:
            return []
        row_s = self._quotes.get(key.model, UNKNOWN).row_s or UNKNOWN_ROW_S
        taken = queue.take(
            0 if key.alone else rows,
            self._max_batch_bytes,
            self._shares.clock,
            lambda tenant, count: self._shares.charge(tenant, count, count * row_s),
        )
        self._shares.advance()
        if self._exact_age:
            queue.renew_oldest()
        self._released(queue, taken)
        return taken

    def next_wakeup(self, now: float) -> float | None:
        """When the next request becomes late; later than `now` after `prune(now)`."""
        queues = self._queues.items()
        at = min((queue.earliest - self._first_s(key, now) for key, queue in queues), default=None)
        # Rounding must not make it a wake-up that finds nothing to do.
        return at if at is None or at > now else nextafter(now, INFINITY)

    def snapshot(self) -> Snapshot:
        """What waits now."""
        queues = (
            QueueSnapshot(
                key,
                queue.count,
                queue.rows,
                sum(request.size_bytes for request in queue.requests()),
                queue.earliest,
            )
            for key, queue in self._queues.items()
        )
        return Snapshot(self._requests, self._bytes, tuple(queues), self._shares.snapshot())

    def quoted(self, model: str, now: float) -> Quote:
        """What the model's replicas can do, as far as is known now."""
        quote = self._quotes.get(model, UNKNOWN)
        return quote if now <= quote.until else UNKNOWN

    def _first_s(self, key: QueueKey, now: float) -> float:
        return 0.0 if key.alone else self.quoted(key.model, now).first_s

    def _late(self, request: R, now: float) -> Reject | None:
        """The refusal of a request that would be answered too late; None if it would not."""
        quote = self.quoted(request.key.model, now)
        if not quote.first_s or request.key.alone:
            return None
        if now + quote.first_s > request.due_at:
            return Reject("DEADLINE_TOO_SHORT")
        key, ahead = request.key, self._ahead(request)
        late_s = quote.ends_at(ahead, request.rows, key.max_rows, now) - request.due_at
        return Reject("WOULD_BE_LATE", max(late_s, LEAST_RETRY_S)) if late_s > 0 else None

    def _ahead(self, request: R) -> float:
        """Rows that leave before the request: of more urgent classes, and its own class's share."""
        before = own = 0.0
        for rank, rows in self._rows[request.key.model].items():
            if rank < request.priority:
                before += rows
            elif rank == request.priority:
                own = rows
        queue = self._queues.get(request.key)
        level = queue.levels.get(request.priority) if queue is not None else None
        if level is None:
            return before + own
        own -= level.rows - sum([lane.rows_due(request.due_at) for lane in level.lanes.values()])
        if len(level.lanes) > 1 or request.tenant not in level.lanes:
            own = min(own, self._turns(request, level.lanes.get(request.tenant)))
        return before + own

    def _turns(self, request: R, lane: Any) -> float:
        """Rows of all tenants that leave until it is the request's turn, by their shares."""
        mine = lane.rows_due(request.due_at) if lane is not None else 0
        weight = self._shares.weight(request.tenant)
        total = self._shares.total_weight() + (0.0 if lane is not None else weight)
        return float(mine + request.rows) * total / weight

    def _lacking(self, request: R) -> str:
        """The reason of a refusal if there is no room for the request."""
        if self._requests >= self._bounds.requests:
            return "QUEUE_FULL"
        if self._bytes + request.size_bytes > self._bounds.size_bytes:
            return "QUEUE_BYTES_FULL"
        return ""

    def _evictable(self, request: R) -> bool:
        """Whether lower classes hold enough for the request."""
        if request.size_bytes > self._bounds.size_bytes:
            return False
        lacking_bytes = self._bytes + request.size_bytes - self._bounds.size_bytes
        lower = [b for rank, b in self._class_bytes.items() if rank > request.priority and b > 0]
        return bool(lower) and sum(lower) >= lacking_bytes

    def _make_room(self, request: R) -> list[R]:
        """Evicts the requests of the lowest classes that are due last until there is room."""
        evicted: list[R] = []
        while self._lacking(request):
            queue = max(
                (queue for queue in self._queues.values() if not queue.key.alone),
                key=lambda queue: queue.order[-1],
            )
            gone = queue.pop_last(queue.order[-1])
            self._released(queue, [gone])
            evicted.append(gone)
        return evicted

    def _drain_s(self, model: str) -> float | None:
        """When half of what waits has left; None if nothing is known of that."""
        row_s = self._quotes.get(model, UNKNOWN).row_s
        rows = sum(self._rows[model].values())
        return max(rows * row_s / 2, LEAST_RETRY_S) if row_s else None

    def _released(self, queue: Queue[R], gone: Iterable[R]) -> None:
        model = queue.key.model
        for request in gone:
            self._requests -= 1
            self._bytes -= request.size_bytes
            self._counts[model, request.priority] -= 1
            self._rows[model][request.priority] -= request.rows
            if not queue.key.alone:
                self._class_bytes[request.priority] -= request.size_bytes
            self._shares.on_left(request.tenant)
        if not queue.count:
            del self._queues[queue.key]
