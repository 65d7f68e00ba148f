"""The pump: whenever something happened, it does all there is to do and arms one timer.

What happens: a request waits, a batch ends, an endpoint changes, time passes. What there is to do:
end what is late, send returned batches, then due ones, as long as endpoints have room. Every
decision is a policy's; this shell keeps the clock and the batches under way.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from chassis.errors import Unavailable
from chassis.telemetry import logger
from gateway import metrics
from gateway.arms import Arms
from gateway.dispatch.affinity import Affinity
from gateway.dispatch.comparison import Comparison
from gateway.dispatch.delivery import Carrier, Delivery, Ended, Failure, Outcome
from gateway.ingress.batch import Batch, BatchReply, Sample
from gateway.ingress.door import Door
from gateway.ingress.generation import Generation
from gateway.policy.balance import Balance
from gateway.policy.lane import QueueKey
from gateway.policy.retry import RetryPolicy, Verdict
from gateway.policy.rollout import Rollouts
from gateway.policy.schedule import Schedule
from gateway.policy.sequences import Sequences
from gateway.policy.speed import Observation
from gateway.statistics import Ledger

log = logger(__name__)
# The loop's timers round to milliseconds; half of one more never fires early.
TIMER_SLACK_S = 0.0005


@dataclass(frozen=True, slots=True)
class Spans:
    """Seconds: an attempt's longest life, and how long a request waits for any endpoint.

    With `hedging` a batch goes to a second endpoint as well once the first one is overdue.
    """

    attempt_s: float
    unavailable_s: float
    hedging: bool = True


class Dispatcher:
    """Sends batches from the door to endpoints; belongs to the running loop."""

    def __init__(
        self,
        door: Door,
        carrier: Carrier,
        *,
        balance: Balance,
        generations: Balance,
        schedule: Schedule,
        sequences: Sequences,
        retry: RetryPolicy,
        ledger: Ledger,
        spans: Spans,
        comparison: Comparison | None = None,
        on_newer: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_newer` hears of models of which some endpoint serves a newer revision than all."""
        self._comparison = comparison or Comparison(Arms(Rollouts().current))
        self._on_newer = on_newer
        self._door = door
        self._carrier = carrier
        self._balance = balance
        # Seats for decoupled requests, which last long: apart, so that batches keep theirs.
        self._generations = generations
        self._schedule = schedule
        self._affinity = Affinity(sequences, self._seats)
        self._retry = retry
        self._ledger = ledger
        self._spans = spans
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._flying: dict[int, Delivery] = {}
        self._returned: list[Delivery] = []
        self._woken = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        # Set once somebody waits for the end.
        self._idle: asyncio.Event | None = None

    def wake(self) -> None:
        """Something happened; the pump runs once in the next turn of the loop.

        Requests read in the same turn travel together.
        """
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._pump)

    def on_endpoints(self) -> None:
        """Endpoints came, went, or serve other models."""
        self._schedule.on_endpoints(self._clock())
        self.wake()

    async def wait_idle(self) -> None:
        """Returns once no request waits for an answer."""
        self._idle = asyncio.Event()
        self.wake()
        await self._idle.wait()

    def inflight_rows(self, address: str) -> int:
        """Rows under way at an endpoint."""
        return sum(item.batch.rows for item in self._flying.values() if item.address == address)

    def _pump(self) -> None:
        self._woken = False
        now = self._clock()
        self._end_late(now)
        self._send_returned(now)
        self._send_due(now)
        if self._idle is not None and self._is_idle():
            self._idle.set()
        self._arm(now)

    def _is_idle(self) -> bool:
        under_way = (*self._flying.values(), *self._returned)
        return not self._door.waiting() and all(item.batch.done for item in under_way)

    def _end_late(self, now: float) -> None:
        self._door.prune(now)
        for delivery_id, delivery in list(self._flying.items()):
            if delivery.check_at <= now:
                self._comparison.on_expired(delivery.batch, delivery.on_expired(now=now))
                if delivery.abandon_at <= now and delivery_id in self._flying:
                    self._abandon(delivery_id, delivery)
                elif delivery.hedge_at <= now:
                    self._hedge(delivery, now)
        for delivery in self._returned:
            if delivery.check_at <= now:
                delivery.on_expired(now=now)
        self._affinity.expire(now)
        self._end_lost(now)
        self._end_unserved(now)

    def _end_lost(self, now: float) -> None:
        """Ends what waits for a sequence that cannot go on."""
        for key in self._door.waiting():
            if key.sequence:
                error = self._affinity.loss(key)
                if error is not None:
                    self._door.give_up(key, 0.0, error, now)

    def _hedge(self, delivery: Delivery, now: float) -> None:
        """Asks another endpoint as well: this one sits on the batch."""
        if delivery.batch.done or not self._retry.take_hedge():
            delivery.forgo_hedge()
            return
        metrics.HEDGES.labels(delivery.batch.key.model).inc()
        if delivery.batch.key.candidate:
            # To any version; whoever answers, the candidate was too slow.
            delivery.batch.leave_candidate(blamed=True)
        self._returned.append(delivery.hedge(now=now))

    def _abandon(self, delivery_id: int, delivery: Delivery) -> None:
        log.warning("attempt timed out", endpoint=delivery.address, model=delivery.batch.key.model)
        # Ends this attempt through `on_outcome` like any broken one.
        self._carrier.abandon(delivery.address, delivery_id)

    def _end_unserved(self, now: float) -> None:
        """Ends what has waited long enough for a model that no endpoint takes batches of."""
        wait_s = self._spans.unavailable_s
        for key, since in self._unserved_keys():
            if max(self._door.oldest_at(key), since) + wait_s <= now:
                self._door.give_up(key, wait_s, _no_replica(key.model), now)
        for delivery in self._returned:
            at = self._give_up_at(delivery)
            if at is not None and at <= now:
                delivery.batch.fail(_no_replica(delivery.batch.key.model), now)

    def _unserved_keys(self) -> Iterator[tuple[QueueKey, float]]:
        for key in self._door.waiting():
            since = self._balance.unserved_since(key.model)
            if since is not None:
                yield key, since

    def _give_up_at(self, delivery: Delivery) -> float | None:
        since = self._balance.unserved_since(delivery.batch.key.model)
        if since is None:
            return None
        return max(delivery.returned_at, since) + self._spans.unavailable_s

    def _send_returned(self, now: float) -> None:
        if not self._returned:
            return
        waiting, self._returned = self._returned, []
        for delivery in sorted(waiting, key=lambda item: (item.batch.priority, item.check_at)):
            if delivery.batch.done:
                self._give_up(delivery, now)
                continue
            address = self._address_for(delivery, now)
            if address is not None:
                self._send(delivery, address, now, reason="retry")
            elif self._refused_everywhere(delivery):
                self._give_up(delivery, now)
            else:
                self._returned.append(delivery)

    def _give_up(self, delivery: Delivery, now: float) -> None:
        """The last that happens to a batch that came back."""
        batch = delivery.batch
        delivery.over = True
        if delivery.shared:
            return
        assert delivery.failure is not None
        error = delivery.failure.error
        if batch.key.sequence:
            error = self._affinity.on_failed(batch, delivery.failure, now)
            # What waits behind it may go now, or never.
            self.wake()
        if isinstance(batch, Generation) and batch.done:
            batch.leave(now)
        else:
            self._comparison.on_given_up(batch, delivery.failure, now)
            batch.fail(error, now)

    def _address_for(self, delivery: Delivery, now: float) -> str | None:
        key, pinned = delivery.batch.key, delivery.batch.pinned
        avoid = delivery.refused_by | delivery.failed_on
        if not self._balance.has_candidate(key.model, avoid, pinned):
            avoid = delivery.refused_by
        if key.decoupled:
            return self._generations.pick(key.model, pinned, avoid)
        return self._schedule.pick(key.model, pinned, avoid, now)

    def _refused_everywhere(self, delivery: Delivery) -> bool:
        model, pinned = delivery.batch.key.model, delivery.batch.pinned
        return self._balance.has_candidate(model) and not self._balance.has_candidate(
            model, delivery.refused_by, pinned
        )

    def _send_due(self, now: float) -> None:
        """Batches and what goes alone in turns, so that neither waits for all of the other."""
        sent = True
        while sent and (self._balance.has_room() or self._generations.has_room()):
            sent = self._send_batch(now)
            for key in self._alone():
                sent |= self._send_step(key, now) if key.sequence else self._generate(key, now)

    def _send_batch(self, now: float) -> bool:
        order = self._schedule.next(now)
        if order is None:
            return False
        batch = self._door.take(order.key, order.rows, now)
        if batch is not None:
            if order.unpinned or self._comparison.over(batch.key):
                batch.leave_candidate(blamed=False)
            self._send(Delivery(batch), order.address, now, reason=order.reason)
            self._ask_slow(batch, now)
        return True

    def _alone(self) -> list[QueueKey]:
        """Queues whose requests go one by one, the most urgent first."""
        keys = [key for key in self._door.waiting() if key.alone]
        return sorted(keys, key=self._urgency) if len(keys) > 1 else keys

    def _urgency(self, key: QueueKey) -> tuple[int, float]:
        outline = self._door.outline(key)
        return (outline.priority, outline.due_at) if outline is not None else (0, 0.0)

    def _generate(self, key: QueueKey, now: float) -> bool:
        """The next decoupled request of a queue."""
        address = self._generations.pick(key.model, key.version)
        batch = self._door.take(key, 0, now) if address is not None else None
        if address is None or batch is None:
            return False
        self._send(Delivery(batch), address, now, reason="free")
        return True

    def _ask_slow(self, batch: Batch, now: float) -> None:
        """Asks a slow endpoint a copy of the batch's first request: nobody waits for the answer."""
        if batch.pinned or batch.carried:
            return
        address = self._schedule.probe(batch.key, now)
        if address is not None:
            metrics.PROBES.labels(batch.key.model).inc()
            self._send(Delivery(batch.sample()), address, now, reason="probe")

    def _send_step(self, key: QueueKey, now: float) -> bool:
        """The next request of a sequence."""
        address = self._affinity.address_for(key)
        batch = self._door.take(key, 1, now) if address is not None else None
        if address is None or batch is None:
            return False
        objection = self._affinity.objection(batch)
        if objection is not None:
            self._affinity.on_unsent(batch, now)
            batch.fail(objection, now)
            return True
        self._send(Delivery(batch), address, now, reason="sequence")
        return True

    def _send(self, delivery: Delivery, address: str, now: float, *, reason: str) -> None:
        batch = delivery.batch
        delivery_id = next(self._ids)
        self._flying[delivery_id] = delivery
        self._seats(batch.key).on_sent(address)
        if not batch.key.decoupled:
            self._schedule.on_sent(delivery_id, batch.key, address, batch.rows, now)
        hedge_at = self._hedge_at(delivery_id, delivery)
        delivery.on_sent(address, now=now, timeout_s=self._spans.attempt_s, hedge_at=hedge_at)
        if batch.key.sequence:
            self._affinity.on_sent(batch, address)
        self._count(delivery, reason)
        timeout_s = max(batch.last_deadline - now, 0.0)
        if isinstance(batch, Generation):
            self._carrier.generate(address, delivery_id, batch, timeout_s, self)
        else:
            self._carrier.send(address, delivery_id, batch, timeout_s, self.on_outcome)

    def _hedge_at(self, delivery_id: int, delivery: Delivery) -> float:
        """When the attempt takes so long that another endpoint is asked as well."""
        batch = delivery.batch
        once = batch.key.alone or batch.done or delivery.twin is not None
        if once or not self._spans.hedging or len(self._balance.serving(batch.key.model)) < 2:
            return float("inf")
        return self._schedule.overdue_at(delivery_id)

    def _count(self, delivery: Delivery, reason: str) -> None:
        model, rows = delivery.batch.key.model, delivery.batch.rows
        metrics.DISPATCHES.labels(model, reason).inc()
        metrics.INFLIGHT.set(len(self._flying))
        if not isinstance(delivery.batch, Sample):
            self._ledger.on_sent(model, rows, retry=delivery.attempts > 1)
            metrics.BATCH_ROWS.labels(model).observe(rows)

    def _seats(self, key: QueueKey) -> Balance:
        return self._generations if key.decoupled else self._balance

    def on_response(self, delivery_id: int, reply: BatchReply) -> None:
        """As `Listener.on_response`."""
        delivery = self._flying.get(delivery_id)
        if delivery is not None and isinstance(delivery.batch, Generation):
            now = self._clock()
            delivery.batch.respond(reply, now)
            delivery.on_progress(now=now, timeout_s=self._spans.attempt_s)

    def on_resumed(self, delivery_id: int) -> None:
        """As `Listener.on_resumed`."""
        delivery = self._flying.get(delivery_id)
        if delivery is not None:
            delivery.on_progress(now=self._clock(), timeout_s=self._spans.attempt_s)
            self._arm(self._clock())

    def on_outcome(self, delivery_id: int, outcome: Outcome) -> None:
        """As `Listener.on_outcome`, for batches as well."""
        delivery = self._flying.pop(delivery_id, None)
        if delivery is None:
            # A late answer to an attempt that was given up.
            return
        now = self._clock()
        key = delivery.batch.key
        self._seats(key).on_ended(delivery.address)
        seen: Observation | None = None
        if isinstance(outcome, BatchReply):
            seen = self._schedule.on_answered(delivery_id, key, now)
            self._show(key.model, seen)
            self._note_revision(delivery.address, key, outcome)
        elif not key.decoupled:
            self._schedule.on_ended(delivery_id, key, now)
        metrics.INFLIGHT.set(len(self._flying))
        if isinstance(outcome, Failure):
            self._on_failure(delivery, outcome, now)
            self.wake()
            return
        if delivery.batch.key.sequence:
            self._affinity.on_answered(delivery.batch, outcome.version, now)
        # First in line: the endpoint's next batch leaves before the callers of this one wake up.
        self.wake()
        if isinstance(delivery.batch, Sample):
            if isinstance(outcome, BatchReply):
                delivery.batch.complete(outcome, now)
            return
        self._retry.on_success()
        if isinstance(outcome, Ended):
            if isinstance(delivery.batch, Generation):
                delivery.batch.finish(outcome.version, now)
            return
        delivery.over = True
        if delivery.twin is not None and delivery.batch.done:
            # The other delivery was faster.
            return
        self._comparison.on_answered(delivery.batch, outcome, seen, now)
        delivery.batch.complete(outcome, now)
        metrics.BATCH_SECONDS.labels(delivery.batch.key.model).observe(outcome.infer_s)
        self._copy(delivery.batch, outcome, now)

    def _note_revision(self, address: str, key: QueueKey, reply: BatchReply) -> None:
        """What an answer tells of its endpoint is news before any health check brings it."""
        if self._on_newer is None or reply.provenance is None or not reply.provenance.revision:
            return
        if self._seats(key).on_revision(address, key.model, reply.provenance.revision):
            self._on_newer(key.model)

    def _copy(self, batch: Batch, reply: BatchReply, now: float) -> None:
        """Has a rollout's candidate compute the same, while nobody waits for its endpoint."""
        copy = self._comparison.copy_of(batch, reply, now)
        if copy is None:
            return
        if all(key.model != batch.key.model for key in self._door.waiting()):
            address = self._schedule.pick(copy.key.model, copy.pinned, (), now)
            if address is not None and not self._balance.inflight(address):
                self._send(Delivery(copy), address, now, reason="shadow")

    def _show(self, model: str, seen: Observation | None) -> None:
        if seen is None or not seen.expected_s:
            return
        metrics.PREDICTION.labels(model).observe(seen.seconds / seen.expected_s)
        ratio = self._schedule.ratio(seen.address, model)
        metrics.ENDPOINT_RATIO.labels(seen.address, model).set(ratio)

    def _on_failure(self, delivery: Delivery, failure: Failure, now: float) -> None:
        batch = delivery.batch
        delivery.on_returned(failure, now=now)
        if self._comparison.on_failed(batch, failure):
            # Free of charge, once: the caller asked for no candidate.
            self._returned.append(delivery.afresh(failure, now=now))
            return
        if batch.done or delivery.shared:
            self._give_up(delivery, now)
            return
        verdict = self._verdict(delivery, failure)
        metrics.FAILED_ATTEMPTS.labels(batch.key.model, failure.fault.value, verdict.value).inc()
        if verdict is Verdict.GIVE_UP:
            self._give_up(delivery, now)
        elif verdict is Verdict.RETRY:
            self._returned.append(delivery)
        else:
            self._returned += delivery.alone()

    def _verdict(self, delivery: Delivery, failure: Failure) -> Verdict:
        batch = delivery.batch
        if batch.key.sequence and not self._affinity.may_move(batch):
            return Verdict.GIVE_UP
        return self._retry.decide(
            failure.fault,
            attempts=delivery.attempts,
            requests=len(batch),
            elsewhere=self._balance.has_candidate(
                batch.key.model, delivery.refused_by | delivery.failed_on, batch.pinned
            ),
            begun=delivery.begun,
        )

    def _arm(self, now: float) -> None:
        """One timer for the next thing that time alone brings about."""
        at = self._next_wakeup(now)
        if at >= self._timer_at:
            # Fires early for that, finds nothing and arms again: cheaper than moving it each time.
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(at - now, 0.0) + TIMER_SLACK_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = float("inf")
        self._pump()

    def _next_wakeup(self, now: float) -> float:
        at = min(
            self._door.next_wakeup(now) or float("inf"),
            self._affinity.next_wakeup() or float("inf"),
            self._schedule.next_wakeup() or float("inf"),
        )
        for delivery in self._flying.values():
            at = min(at, delivery.check_at)
        wait_s = self._spans.unavailable_s
        for key, since in self._unserved_keys():
            at = min(at, max(self._door.oldest_at(key), since) + wait_s)
        for delivery in self._returned:
            at = min(at, delivery.check_at, self._give_up_at(delivery) or float("inf"))
        return at


def _no_replica(model: str) -> Unavailable:
    return Unavailable("NO_READY_REPLICA", f"no replica of model {model!r} is ready")
