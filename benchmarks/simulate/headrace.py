"""Our gateway: the policy code of `gateway.policy`, driven as the dispatcher drives it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from benchmarks.simulate.clock import Clock
from benchmarks.simulate.replica import Replica
from benchmarks.simulate.request import Request
from gateway.policy.balance import Balance
from gateway.policy.batching import Backlog, Fit, Reject
from gateway.policy.queue import QueueKey
from gateway.policy.schedule import Order, Schedule, Tuning
from gateway.policy.speed import Speeds


class _Queues:
    """The backlog as the schedule sees it: what is trimmed is lost."""

    def __init__(
        self, backlog: Backlog[Request], lose: Callable[[list[Request], str], None]
    ) -> None:
        self._backlog = backlog
        self._lose = lose
        self.waiting = backlog.waiting
        self.outline = backlog.outline
        self.room = backlog.room
        self.arrived = backlog.arrived
        self.quote = backlog.quote

    def trim(self, key: QueueKey, fit: Fit, target: int, now: float) -> None:
        """Gives up the heads that keep the batch small."""
        self._lose(self._backlog.trim(key, fit, target), "dropped")


class Headrace:
    """A gateway in front of replicas, named by their position."""

    name = "headrace"

    def __init__(
        self,
        clock: Clock,
        replicas: Sequence[Replica],
        models: Sequence[str],
        *,
        way_s: float = 0.0,
        max_inflight: int = 1,
        max_requests: int = 100_000,
        weights: dict[str, float] | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self._clock = clock
        self._replicas = {str(at): replica for at, replica in enumerate(replicas)}
        self._backlog: Backlog[Request] = Backlog(
            max_requests=max_requests, max_bytes=2**40, weights=weights
        )
        self._balance = Balance(max_inflight=max_inflight)
        self._speeds = Speeds()
        self.schedule = Schedule(_Queues(self._backlog, _lose), self._balance, self._speeds, tuning)
        self._ids = itertools.count(1)
        self._timer_at = float("inf")
        self._way_s = way_s
        self.schedule.on_way(2 * way_s)
        for address in self._replicas:
            self._balance.on_endpoint(address, dict.fromkeys(models, frozenset({1})), now=0.0)

    def offer(self, request: Request) -> None:
        """A request came."""
        verdict = self._backlog.offer(request, self._clock.now)
        if isinstance(verdict, Reject):
            request.lost = verdict.reason
            return
        _lose(list(verdict.evicted), "evicted")
        self._pump()

    def _pump(self) -> None:
        now = self._clock.now
        _lose(self._backlog.prune(now), "late")
        while (order := self.schedule.next(now)) is not None:
            self._send(order, now)
        wake_at = min(self._backlog.next_wakeup(now) or 1e18, self.schedule.next_wakeup() or 1e18)
        if wake_at < self._timer_at:
            assert wake_at > now, "a wake-up in the past"
            self._timer_at = wake_at
            self._clock.at(wake_at, self._on_timer)

    def _on_timer(self) -> None:
        if self._clock.now >= self._timer_at:
            self._timer_at = float("inf")
            self._pump()

    def _send(self, order: Order, now: float) -> None:
        batch = self._backlog.take(order.key, order.rows)
        rows = sum(request.rows for request in batch)
        flight = next(self._ids)
        self._balance.on_sent(order.address)
        self.schedule.on_sent(flight, order.key, order.address, rows, now)
        replica = self._replicas[order.address]

        def answered() -> None:
            for request in batch:
                request.answered_at = self._clock.now
            self._balance.on_ended(order.address)
            self.schedule.on_answered(flight, order.key, self._clock.now)
            self._pump()

        def back() -> None:
            self._clock.at(self._clock.now + self._way_s, answered)

        if self._way_s:
            self._clock.at(now + self._way_s, lambda: replica.send(rows, back))
        else:
            replica.send(rows, answered)
        slow = self.schedule.probe(order.key, now)
        if slow is not None:
            self._probe(order.key, slow, now)

    def _probe(self, key: QueueKey, address: str, now: float) -> None:
        """A copy of one row: nobody waits for it."""
        flight = next(self._ids)
        self._balance.on_sent(address)
        self.schedule.on_sent(flight, key, address, 1, now)

        def answered() -> None:
            self._balance.on_ended(address)
            self.schedule.on_answered(flight, key, self._clock.now)
            self._pump()

        self._replicas[address].send(1, answered)


def _lose(requests: list[Request], why: str) -> None:
    for request in requests:
        request.lost = why
