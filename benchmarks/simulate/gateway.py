"""Our gateway: the policy code of `gateway.policy`, driven as `gateway.dispatch.dispatcher` does.

What is real here is every decision; what is simulated is who keeps the time, carries batches and
notices a broken connection (at once). There is no tensor and no stream.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.simulate.replica import Replica
from benchmarks.simulate.request import Request
from benchmarks.simulate.world import World
from gateway.policy.balance import Balance
from gateway.policy.batching import Backlog, Fit, Reject
from gateway.policy.lane import INFINITY, QueueKey
from gateway.policy.retry import Fault, RetryPolicy, Verdict
from gateway.policy.schedule import Order, Schedule, Tuning
from gateway.policy.speed import Speeds

MAX_ATTEMPTS = 3
MAX_REQUESTS = 100_000
VERSIONS = frozenset({1})


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
        del now
        self._lose(self._backlog.trim(key, fit, target), "GIVEN_UP")


@dataclass(slots=True, eq=False)
class _Delivery:
    """A batch and its attempts; of a probe nobody waits for the requests, so it has none.

    `twin` is the other delivery of the same requests, after a hedge; `over` once nothing more comes
    of this one.
    """

    key: QueueKey
    requests: list[Request]
    rows: int
    attempts: int = 0
    address: str = ""
    failed_on: set[str] = field(default_factory=set)
    twin: _Delivery | None = None
    over: bool = False

    @property
    def waiting(self) -> list[Request]:
        """Requests that have not ended."""
        return [request for request in self.requests if not request.ended]

    @property
    def shared(self) -> bool:
        """Whether the other delivery may still answer."""
        return self.twin is not None and not self.twin.over


class Headrace:
    """A gateway in front of some of a world's replicas, named by their position."""

    def __init__(
        self,
        world: World,
        replicas: Sequence[Replica] | None = None,
        *,
        weights: dict[str, float] | None = None,
        tuning: Tuning | None = None,
        max_requests: int = MAX_REQUESTS,
    ) -> None:
        plant = world.plant
        self._clock = world.clock
        self._way_s = plant.way_s
        own = world.replicas if replicas is None else replicas
        self._replicas = {str(at): replica for at, replica in enumerate(own)}
        self._models = [plant.key(model).model for model in range(plant.models)]
        self.backlog: Backlog[Request] = Backlog(
            max_requests=max_requests, max_bytes=2**40, weights=weights
        )
        self.balance = Balance(max_inflight=plant.max_inflight)
        self.speeds = Speeds()
        self.schedule = Schedule(_Queues(self.backlog, _lose), self.balance, self.speeds, tuning)
        self.schedule.way.on_way(2 * plant.way_s)
        self.retry = RetryPolicy(max_attempts=MAX_ATTEMPTS)
        self.sent = self.sent_again = self.probes = self.hedges = 0
        self._returned: list[_Delivery] = []
        self._ids = itertools.count(1)
        self._timer_at = INFINITY
        for address, replica in self._replicas.items():
            self._join(address)
            replica.watchers.append(self._watcher(address, replica))

    def offer(self, request: Request) -> None:
        """A request came."""
        verdict = self.backlog.offer(request, self._clock.now)
        if isinstance(verdict, Reject):
            request.retry_after_s = verdict.retry_after_s
            request.lose(verdict.reason)
            return
        _lose(list(verdict.evicted), "EVICTED")
        self._pump()

    def _join(self, address: str) -> None:
        serves = dict.fromkeys(self._models, VERSIONS)
        self.balance.on_endpoint(address, serves, now=self._clock.now)

    def _watcher(self, address: str, replica: Replica) -> Callable[[], None]:
        def watch() -> None:
            if replica.alive:
                self._join(address)
            else:
                self.balance.on_removed(address, now=self._clock.now)
            self.schedule.on_endpoints(self._clock.now)
            self._pump()

        return watch

    def _pump(self) -> None:
        now = self._clock.now
        _lose(self.backlog.prune(now), "LATE")
        self._send_returned(now)
        while (order := self.schedule.next(now)) is not None:
            self._send_next(order, now)
        self._arm(now)

    def _arm(self, now: float) -> None:
        at = min(self.backlog.next_wakeup(now) or INFINITY, self.schedule.next_wakeup() or INFINITY)
        if at < self._timer_at:
            assert at > now, "a wake-up that is not later than what was done"
            self._timer_at = at
            self._clock.at(at, self._on_timer)

    def _on_timer(self) -> None:
        if self._clock.now >= self._timer_at:
            self._timer_at = INFINITY
            self._pump()

    def _send_next(self, order: Order, now: float) -> None:
        requests = self.backlog.take(order.key, order.rows)
        delivery = _Delivery(order.key, requests, sum([request.rows for request in requests]))
        self._send(delivery, order.address, now)
        slow = self.schedule.probe(order.key, now)
        if slow is not None:
            self.probes += 1
            self._send(_Delivery(order.key, [], 1), slow, now)

    def _send_returned(self, now: float) -> None:
        """Batches that failed go first, each request still due when it always was."""
        waiting, self._returned = self._returned, []
        for delivery in sorted(waiting, key=lambda item: item.requests[0].due_at):
            if not delivery.shared:
                _lose([request for request in delivery.waiting if request.due_at <= now], "LATE")
            if not delivery.waiting:
                delivery.over = True
                continue
            address = self._address_for(delivery, now)
            if address is None:
                self._returned.append(delivery)
            else:
                self._send(delivery, address, now)

    def _address_for(self, delivery: _Delivery, now: float) -> str | None:
        model = delivery.key.model
        avoid: set[str] = delivery.failed_on
        if not self.balance.has_candidate(model, avoid):
            avoid = set()
        return self.schedule.pick(model, delivery.key.version, avoid, now)

    def _send(self, delivery: _Delivery, address: str, now: float) -> None:
        flight = next(self._ids)
        delivery.attempts += 1
        delivery.address = address
        self.sent += 1
        self.sent_again += delivery.attempts > 1
        self.balance.on_sent(address)
        self.schedule.on_sent(flight, delivery.key, address, delivery.rows, now)
        replica = self._replicas[address]
        done = self._after_way(lambda: self._on_answered(flight, delivery))
        failed = self._after_way(lambda: self._on_failed(flight, delivery))
        self._after_way(lambda: replica.send(delivery.rows, done, failed))()
        overdue_at = self.schedule.overdue_at(flight)
        if delivery.requests and delivery.twin is None and overdue_at < INFINITY:
            self._clock.at(overdue_at, lambda: self._on_overdue(delivery, address))

    def _on_overdue(self, delivery: _Delivery, address: str) -> None:
        """Asks another replica as well, once: this one sits on the batch."""
        now = self._clock.now
        if delivery.over or delivery.address != address or delivery.twin is not None:
            return
        in_time = any(request.due_at > now for request in delivery.waiting)
        if len(self._replicas) < 2 or not in_time or not self.retry.take_hedge():
            return
        self.hedges += 1
        delivery.twin = _Delivery(
            delivery.key,
            delivery.requests,
            delivery.rows,
            delivery.attempts,
            failed_on={*delivery.failed_on, address},
            twin=delivery,
        )
        self._returned.append(delivery.twin)
        self._pump()

    def _after_way(self, act: Callable[[], None]) -> Callable[[], None]:
        """The act, one way later."""
        if not self._way_s:
            return act
        return lambda: self._clock.at(self._clock.now + self._way_s, act)

    def _on_answered(self, flight: int, delivery: _Delivery) -> None:
        now = self._clock.now
        delivery.over = True
        for request in delivery.waiting:
            request.answer(now)
        self.balance.on_ended(delivery.address)
        self.schedule.on_answered(flight, delivery.key, now)
        self.retry.on_success()
        self._pump()

    def _on_failed(self, flight: int, delivery: _Delivery) -> None:
        now = self._clock.now
        self.balance.on_ended(delivery.address)
        self.schedule.on_ended(flight, delivery.key, now)
        delivery.failed_on.add(delivery.address)
        if self._goes_again(delivery):
            delivery.address = ""
            self._returned.append(delivery)
        else:
            delivery.over = True
            if not delivery.shared:
                _lose(delivery.waiting, "FAILED")
        self._pump()

    def _goes_again(self, delivery: _Delivery) -> bool:
        if not delivery.waiting or delivery.shared:
            return False
        verdict = self.retry.decide(
            Fault.BROKEN,
            attempts=delivery.attempts,
            requests=len(delivery.requests),
            elsewhere=self.balance.has_candidate(delivery.key.model, delivery.failed_on),
        )
        return verdict is Verdict.RETRY


def _lose(requests: list[Request], why: str) -> None:
    for request in requests:
        request.lose(why)
