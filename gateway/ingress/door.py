"""The door itself: requests in, batches out, and every way a request can end without a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from chassis.errors import DeadlineExceeded, HeadraceError, ResourceExhausted, Unavailable
from chassis.sequences import SequenceId, lost, not_started
from gateway import metrics
from gateway.ingress.batch import Batch, expired, fail_all
from gateway.ingress.generation import Generation
from gateway.ingress.request import Request
from gateway.policy.batching import ADMIT, Admit, Backlog, Fit, Outline, Reject, Snapshot
from gateway.policy.lane import QueueKey
from gateway.policy.overload import Overload, Stage
from gateway.policy.quote import Quote
from gateway.policy.sequences import SequenceKey, Sequences
from gateway.statistics import Ledger

# What a refused client is told to wait where nothing better is known: a few batches' time.
RETRY_AFTER_S = 0.1
MILLISECONDS = 1000

# Why a request misses its objective.
_LATE = ("WOULD_BE_LATE", "DEADLINE_TOO_SHORT")
_SHED = {
    "WOULD_BE_LATE": "no replica can answer it in time; the load is above what they can do",
    "GIVEN_UP": "given up for the requests behind it; the load is above what the replicas can do",
    "EVICTED": "a more urgent request took its place in the queue",
}


class Door(Protocol):
    """What dispatch sees of this room."""

    def prune(self, now: float) -> None:
        """Ends the requests that no batch can answer in time."""

    def trim(self, key: QueueKey, fit: Fit, target: int, now: float) -> None:
        """Ends the first requests of a queue that keep a batch smaller than `target` rows."""

    def outline(self, key: QueueKey) -> Outline | None:
        """What waits in a queue; None if nothing does."""

    def room(self, key: QueueKey, fit: Fit, limit: int) -> int:
        """Rows of the largest batch, of at most `limit`, in which every head is in time."""

    def arrived(self, model: str) -> int:
        """Rows of the model that were admitted so far."""

    def quote(self, model: str, quote: Quote) -> None:
        """What the model's replicas can do from now on; what that makes late is refused."""

    def take(self, key: QueueKey, rows: int, now: float) -> Batch | None:
        """The next batch of a queue, None if nobody waits there any more."""

    def waiting(self) -> list[QueueKey]:
        """Queues in which something waits."""

    def oldest_at(self, key: QueueKey) -> float:
        """No request of the queue arrived before this point."""

    def give_up(self, key: QueueKey, waited_s: float, error: HeadraceError, now: float) -> None:
        """Ends the requests of a queue that have waited that long."""

    def next_wakeup(self, now: float) -> float | None:
        """When the next request becomes late."""


class Ingress:
    """Holds the requests of a gateway until a batch takes them; implements `Door`."""

    def __init__(
        self,
        backlog: Backlog[Request],
        ledger: Ledger,
        sequences: Sequences,
        *,
        late_priority: int = 0,
    ) -> None:
        """Requests that miss their objective go on in the class `late_priority`; 0 ends them."""
        self._backlog = backlog
        self._ledger = ledger
        self._sequences = sequences
        self._late_priority = late_priority
        self._overload = Overload()
        self._closed = False

    def offer(self, request: Request, now: float) -> Admit | Reject:
        """Lets the request wait, or tells why not.

        What `Backlog.offer` and `Sequences.offer` say, or DRAINING.
        """
        self._overload.on_offered(request.priority, now)
        verdict = Reject("DRAINING") if self._closed else self._admit(request, now)
        if isinstance(verdict, Reject):
            if verdict.reason in _LATE and self._delayed(request, now):
                return ADMIT
            self._ledger.on_rejected(request.key.model, request.priority, verdict.reason)
            self._turn_away(request, now)
        elif verdict.evicted:
            self._shed(list(verdict.evicted), "EVICTED", now)
        return verdict

    def withdraw(self, request: Request, now: float) -> None:
        """The caller of an admitted request went away."""
        if self._backlog.withdraw(request):
            self._leave(request, now)
        self._ledger.on_failed(request.key.model, [request], "CANCELLED", now=now)

    def close(self) -> None:
        """Refuses what is offered from now on; what waits stays."""
        self._closed = True

    def prune(self, now: float) -> None:
        """As `Door.prune`."""
        late = self._backlog.prune(now)
        if late:
            self._shed(late, "WOULD_BE_LATE", now)

    def trim(self, key: QueueKey, fit: Fit, target: int, now: float) -> None:
        """As `Door.trim`."""
        dropped = self._backlog.trim(key, fit, target)
        if dropped:
            self._shed(dropped, "GIVEN_UP", now)

    def outline(self, key: QueueKey) -> Outline | None:
        """As `Door.outline`."""
        return self._backlog.outline(key)

    def room(self, key: QueueKey, fit: Fit, limit: int) -> int:
        """As `Door.room`."""
        return self._backlog.room(key, fit, limit)

    def arrived(self, model: str) -> int:
        """As `Door.arrived`."""
        return self._backlog.arrived(model)

    def quote(self, model: str, quote: Quote) -> None:
        """As `Door.quote`."""
        self._backlog.quote(model, quote)

    def take(self, key: QueueKey, rows: int, now: float) -> Batch | None:
        """As `Door.take`."""
        waiting: list[Request] = []
        while not waiting:
            taken = self._backlog.take(key, rows)
            if not taken:
                return None
            # A caller that went away in this turn of the loop has not withdrawn its request yet.
            waiting = [request for request in taken if not request.answered]
            if key.sequence and not waiting:
                self._leave(taken[0], now)
        metrics.QUEUE_SECONDS.observe(now - min(request.arrived_at for request in waiting))
        responses = waiting[0].responses
        if key.decoupled and responses is not None:
            return Generation(waiting[0], responses, self._ledger, now=now)
        return Batch(waiting, self._ledger, now=now)

    def waiting(self) -> list[QueueKey]:
        """As `Door.waiting`."""
        return self._backlog.waiting()

    def oldest_at(self, key: QueueKey) -> float:
        """As `Door.oldest_at`."""
        return self._backlog.oldest_at(key)

    def give_up(self, key: QueueKey, waited_s: float, error: HeadraceError, now: float) -> None:
        """As `Door.give_up`."""
        self._fail(self._backlog.give_up(key, waited_s, now), error, now)

    def next_wakeup(self, now: float) -> float | None:
        """As `Door.next_wakeup`."""
        return self._backlog.next_wakeup(now)

    def waiting_of(self, model: str) -> int:
        """How many requests of the model wait."""
        queues = self._backlog.snapshot().queues
        return sum(queue.requests for queue in queues if queue.key.model == model)

    def overload(self, now: float) -> Stage:
        """Whom overload hits now."""
        return self._overload.stage(now)

    def snapshot(self) -> Snapshot:
        """What waits now."""
        return self._backlog.snapshot()

    def _admit(self, request: Request, now: float) -> Admit | Reject:
        if request.step is None:
            return self._backlog.offer(request, now)
        # Asked first: a start that is refused for want of room must not end the sequence before.
        refused = self._backlog.refusal(request, now)
        if refused is not None:
            return refused
        step = request.step
        number = self._sequences.offer(
            SequenceKey(request.caller, request.key.model, step.id),
            start=step.start,
            end=step.end,
            version=request.version,
        )
        if isinstance(number, Reject):
            return number
        request.join(number, self._sequences.wire_id(number))
        return self._backlog.offer(request, now)

    def _leave(self, request: Request, now: float) -> None:
        """A request ends without having been sent."""
        step = request.step
        if step is not None:
            self._sequences.on_left(request.key.sequence, start=step.start, end=step.end, now=now)

    def _shed(self, requests: list[Request], reason: str, now: float) -> None:
        """Ends requests that no replica is asked for: expired, or given up before that."""
        over, others = [], []
        for request in requests:
            if request.due_at <= now and not request.objective_binds:
                over.append(request)
            elif reason == "EVICTED" or not self._delayed(request, now):
                others.append(request)
                self._turn_away(request, now)
        self._fail(over, expired(), now)
        self._fail(others, shed(reason), now)
        for request in others:
            self._ledger.on_shed(request.key.model, request.priority, reason)

    def _delayed(self, request: Request, now: float) -> bool:
        """Lets a request that misses its objective wait on, behind all that do not."""
        late = self._late_priority
        if not late or request.key.alone or request.priority == late or not request.objective_binds:
            return False
        request.forget_objective(late)
        if isinstance(self._backlog.offer(request, now), Reject):
            return False
        metrics.DELAYED.labels(request.key.model).inc()
        return True

    def _turn_away(self, request: Request, now: float) -> None:
        over_share = self._backlog.over_share(request.tenant)
        self._overload.on_turned_away(request.priority, over_share=over_share, now=now)

    def _fail(self, requests: list[Request], error: HeadraceError, now: float) -> None:
        by_model: dict[str, list[Request]] = {}
        for request in requests:
            self._leave(request, now)
            by_model.setdefault(request.key.model, []).append(request)
        for group in by_model.values():
            fail_all(group, error, self._ledger, now)


def draining() -> Unavailable:
    """The status of what comes once the gateway takes nothing more."""
    return Unavailable("DRAINING", "the gateway is shutting down; ask another one")


def _too_many(_id: SequenceId) -> ResourceExhausted:
    return ResourceExhausted(
        "TOO_MANY_SEQUENCES",
        "the gateway keeps as many sequences as it may; end some, or try again later",
        retry_after_s=RETRY_AFTER_S,
    )


_OF_SEQUENCES: dict[str, Callable[[SequenceId], HeadraceError]] = {
    "SEQUENCE_NOT_STARTED": not_started,
    "SEQUENCE_LOST": lambda sequence_id: lost(sequence_id, "an earlier request of it was lost"),
    "TOO_MANY_SEQUENCES": _too_many,
}


def refusal(verdict: Reject, request: Request) -> HeadraceError:
    """The status of a request that was not admitted."""
    if verdict.reason == "DEADLINE_EXCEEDED":
        return expired()
    if verdict.reason == "DRAINING":
        return draining()
    if request.step is not None and verdict.reason in _OF_SEQUENCES:
        return _OF_SEQUENCES[verdict.reason](request.step.id)
    retry_after_s = verdict.retry_after_s or RETRY_AFTER_S
    if verdict.reason == "DEADLINE_TOO_SHORT":
        return _too_short(request)
    if verdict.reason in _SHED:
        return shed(verdict.reason, retry_after_s)
    what = "requests" if verdict.reason == "QUEUE_FULL" else "bytes"
    return ResourceExhausted(
        verdict.reason,
        f"the gateway's queue holds as many {what} as it may; try again later",
        retry_after_s=retry_after_s,
    )


def shed(reason: str, retry_after_s: float = RETRY_AFTER_S) -> ResourceExhausted:
    """The status of a request that overload ends before any replica is asked."""
    return ResourceExhausted(reason, _SHED[reason], retry_after_s=retry_after_s)


def _too_short(request: Request) -> HeadraceError:
    """Not even an idle replica is fast enough for it."""
    span_ms = (request.due_at - request.arrived_at) * MILLISECONDS
    what = f"model {request.key.model!r} takes longer than the {span_ms:.0f} ms that"
    if request.objective_binds:
        return ResourceExhausted("DEADLINE_TOO_SHORT", f"{what} the latency objective leaves")
    return DeadlineExceeded("DEADLINE_TOO_SHORT", f"{what} the deadline leaves")
