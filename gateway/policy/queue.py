"""One queue: requests that can be joined, by class, within a class by tenant, there by deadline.

A *class* is a priority level; the most urgent leaves first, always. Within a class the tenant with
the least virtual time leaves first (`fairness`), and of a tenant's requests the first of its lane
(`lane`).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator
from heapq import heapify, heapreplace
from typing import Generic

from gateway.policy.lane import INFINITY, Lane, QueueKey, R

# The virtual time of a tenant, and what its next rows cost it: see `fairness`.
Clock = Callable[[str], float]
Charge = Callable[[str, int], float]


class Level(Generic[R]):
    """One class of a queue: a lane for each tenant that waits."""

    __slots__ = ("lanes", "rows")

    def __init__(self) -> None:
        self.lanes: dict[str, Lane[R]] = {}
        self.rows = 0

    @property
    def earliest(self) -> float:
        """When its first request is due."""
        return min((lane.earliest for lane in self.lanes.values()), default=INFINITY)

    def settle(self, tenant: str) -> None:
        """Counts anew after a lane changed."""
        if not self.lanes[tenant].entries:
            del self.lanes[tenant]
        self.rows = sum([lane.rows for lane in self.lanes.values()])


class Queue(Generic[R]):
    """All classes of one key; `oldest_at` is a bound, exact after `renew_oldest`."""

    __slots__ = ("count", "key", "levels", "oldest_at", "order")

    def __init__(self, key: QueueKey) -> None:
        self.key = key
        self.levels: dict[int, Level[R]] = {}
        # Classes in which something waits, the most urgent first.
        self.order: list[int] = []
        self.count = 0
        self.oldest_at = INFINITY

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return sum([level.rows for level in self.levels.values()])

    @property
    def earliest(self) -> float:
        """When the first request of any class is due."""
        return min((level.earliest for level in self.levels.values()), default=INFINITY)

    def first(self) -> R:
        """The request that is due first in the most urgent class. Not of an empty queue."""
        lanes = self.levels[self.order[0]].lanes
        if len(lanes) == 1:
            return next(iter(lanes.values())).entries[0][2]
        return min(lane.entries[0] for lane in lanes.values())[2]

    def middle(self) -> R:
        """A request from the middle of the most urgent class. Not of an empty queue."""
        lanes = self.levels[self.order[0]].lanes
        entries = next(iter(lanes.values())).entries
        return entries[len(entries) // 2][2]

    def requests(self) -> Iterator[R]:
        """All that wait, in no order."""
        for level in self.levels.values():
            for lane in level.lanes.values():
                for _, _, request in lane.entries:
                    yield request

    def add(self, request: R) -> None:
        """Lets a request wait."""
        # A sequence has one order, so one place to wait in.
        rank, tenant = (0, "") if self.key.sequence else (request.priority, request.tenant)
        level = self.levels.get(rank)
        if level is None:
            level = self.levels[rank] = Level()
            insort(self.order, rank)
        lane = level.lanes.get(tenant)
        if lane is None:
            lane = level.lanes[tenant] = Lane(sequence=self.key.sequence != 0)
        lane.add(request)
        level.rows += request.rows
        self.count += 1
        self.oldest_at = min(self.oldest_at, request.arrived_at)

    def remove(self, request: R) -> bool:
        """Takes one request out; False if it is not here."""
        rank, tenant = (0, "") if self.key.sequence else (request.priority, request.tenant)
        level = self.levels.get(rank)
        lane = level.lanes.get(tenant) if level is not None else None
        if level is None or lane is None or not lane.remove(request):
            return False
        self._settle(rank, tenant, 1)
        return True

    def pop_due(self, by: float) -> list[R]:
        """Takes out the requests that are due by then."""
        return self._pop(lambda lane: lane.pop_due(by))

    def pop_arrived(self, by: float) -> list[R]:
        """Takes out the requests that arrived by then."""
        gone = self._pop(lambda lane: lane.pop_where(lambda request: request.arrived_at <= by))
        self.renew_oldest()
        return gone

    def pop_last(self, rank: int) -> R:
        """Takes out the request of a class that is due last."""
        lanes = self.levels[rank].lanes
        tenant = max(lanes, key=lambda name: lanes[name].entries[-1][:2])
        request = lanes[tenant].pop_last()
        self._settle(rank, tenant, 1)
        return request

    def trim(self, fit: Callable[[float], int], target: int) -> list[R]:
        """Window early drop: takes out the heads for whose sake a batch would be too small.

        `fit` tells how many rows a batch may have that answers in time for a `due_at`. A head
        that fits only a batch smaller than `target`, where more rows wait, goes; without it the
        rows behind it go in a larger batch. A class is sacrificed for itself and more urgent ones
        only. Source: Nexus (SOSP'19), section 6.3.
        """
        gone: list[R] = []
        above = 0
        for rank in list(self.order):
            if above >= target:
                break
            for tenant in list(self.levels[rank].lanes):
                gone += self._trim(rank, tenant, fit, target, above)
            above += self.levels[rank].rows if rank in self.levels else 0
        return gone

    def room(self, fit: Callable[[float], int], limit: int) -> int:
        """Rows of the largest batch, of at most `limit`, in which every head is in time."""
        above = 0
        for rank in self.order:
            if above >= limit:
                break
            level = self.levels[rank]
            limit = min(limit, max(fit(level.earliest), 1))
            above += level.rows
        return limit

    def take(self, rows: int, size_bytes: int, clock: Clock, charge: Charge) -> list[R]:
        """The next batch: at most so many rows and bytes, in order, none skipped.

        The first request is taken whatever its size.
        """
        taken: list[R] = []
        left_bytes = size_bytes
        for rank in list(self.order):
            level = self.levels[rank]
            before = len(taken)
            if len(level.lanes) == 1:
                tenant, lane = next(iter(level.lanes.items()))
                count, rows, left_bytes = _count(lane, rows, left_bytes, first=not taken)
                part = lane.pop_first(count)
                charge(tenant, sum([request.rows for request in part]))
                taken += part
                whole = not lane.entries
                self._settle(rank, tenant, count)
            else:
                part, rows, left_bytes = self._share_out(
                    rank, rows, left_bytes, clock, charge, first=not taken
                )
                taken += part
                whole = rank not in self.levels
            if not whole or len(taken) == before:
                break
        return taken

    def renew_oldest(self) -> None:
        """Makes `oldest_at` exact."""
        self.oldest_at = min((request.arrived_at for request in self.requests()), default=INFINITY)

    def _share_out(
        self, rank: int, rows: int, left_bytes: int, clock: Clock, charge: Charge, *, first: bool
    ) -> tuple[list[R], int, int]:
        """Takes turns among a class's tenants, least virtual time first."""
        lanes = self.levels[rank].lanes
        turns = [(clock(tenant), tenant) for tenant in lanes]
        heapify(turns)
        taken: list[R] = []
        touched: dict[str, int] = {}
        while turns:
            tenant = turns[0][1]
            lane = lanes[tenant]
            at = touched.get(tenant, 0)
            if at == len(lane.entries):
                heapreplace(turns, (INFINITY, tenant))
                if turns[0][0] == INFINITY:
                    break
                continue
            request = lane.entries[at][2]
            rows -= request.rows
            left_bytes -= request.size_bytes
            if (rows < 0 or left_bytes < 0) and not (first and not taken):
                break
            taken.append(request)
            touched[tenant] = at + 1
            heapreplace(turns, (charge(tenant, request.rows), tenant))
        for tenant, count in touched.items():
            lanes[tenant].pop_first(count)
            self._settle(rank, tenant, count)
        return taken, rows, left_bytes

    def _trim(
        self, rank: int, tenant: str, fit: Callable[[float], int], target: int, above: int
    ) -> list[R]:
        level = self.levels[rank]
        lane = level.lanes[tenant]
        waiting, count = above + level.rows, 0
        for due_at, _, request in lane.entries:
            room = fit(due_at)
            if room >= min(target, waiting - request.rows) or room >= waiting:
                break
            waiting -= request.rows
            count += 1
        gone = lane.pop_first(count)
        if gone:
            self._settle(rank, tenant, count)
        return gone

    def _pop(self, pop: Callable[[Lane[R]], list[R]]) -> list[R]:
        gone: list[R] = []
        for rank, level in list(self.levels.items()):
            for tenant, lane in list(level.lanes.items()):
                part = pop(lane)
                if part:
                    gone += part
                    self._settle(rank, tenant, len(part))
        return gone

    def _settle(self, rank: int, tenant: str, count: int) -> None:
        self.count -= count
        level = self.levels[rank]
        level.settle(tenant)
        if not level.lanes:
            del self.levels[rank]
            self.order.remove(rank)


def _count(lane: Lane[R], rows: int, left_bytes: int, *, first: bool) -> tuple[int, int, int]:
    """How many requests of a lane fit, and what is left of the rows and bytes."""
    count = 0
    for _, _, request in lane.entries:
        fits = request.rows <= rows and request.size_bytes <= left_bytes
        if not fits and not (first and count == 0):
            return count, 0, 0
        rows -= request.rows
        left_bytes -= request.size_bytes
        count += 1
    return count, rows, left_bytes
