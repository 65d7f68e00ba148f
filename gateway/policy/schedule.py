"""When a batch leaves, with how many rows, and to which endpoint.

Paced natural batching with window early drop. For each queue, the most urgent first:

    an endpoint with room, least loaded, not slow, not overdue
    heads that would keep the batch small are given up           Backlog.trim
    rows  = what waits, as far as every head is still in time     Backlog.room
    leave if rows >= b*, or more waits than is in time, or the pace (or delay) says so, or else
    the first request would be late

Requests stay in the backlog until an endpoint takes them (late binding), so that none waits behind
a batch that turns out slow. A second batch goes to an endpoint only where the way there and back
is a noticeable part of a batch's time, and then at least half of what it should be.

After each change the backlog is told what the replicas can do (`Quote`), by which it refuses what
would be late. Who may be asked at all is decided in `balance`, how fast they are is learned in
`speed`, sizes and gaps in `pacing`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gateway.policy.balance import Balance
from gateway.policy.batching import Fit, Outline
from gateway.policy.lane import INFINITY, QueueKey
from gateway.policy.latency import BatchLatency
from gateway.policy.pacing import Fleet, Pace, best_rows
from gateway.policy.quote import Quote
from gateway.policy.speed import PROBE_EVERY_S, Observation, Speeds, SpeedSnapshot
from gateway.policy.way import Way

# Share of the best batch that may be sent to an endpoint with another one in flight.
FOLLOWING_SHARE = 0.5
# Where the way there and back takes less than this share of a batch, one in flight is enough.
WAY_SHARE = 0.05
# What the fleet can do is added up anew after each change while it is small, then this often at
# most, times the endpoints it has more than a few.
ADD_UP_EVERY_S = 20e-6
FEW = 16


class Queues(Protocol):
    """What is asked of the backlog."""

    def waiting(self) -> list[QueueKey]: ...
    def outline(self, key: QueueKey) -> Outline | None: ...
    def trim(self, key: QueueKey, fit: Fit, target: int, now: float) -> None: ...
    def room(self, key: QueueKey, fit: Fit, limit: int) -> int: ...
    def arrived(self, model: str) -> int: ...
    def quote(self, model: str, quote: Quote) -> None: ...


@dataclass(frozen=True, slots=True)
class Tuning:
    """What settings may say of batches; the defaults need no tuning.

    `delay_s` is how long the first request waits for others at least while there is time;
    `preferred` sizes (ascending) leave at once.
    """

    delay_s: float = 0.0
    preferred: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """A batch to take and send: at most `rows` rows of a queue.

    `reason` is full (as large as it should be), due (no time to wait for more), paced (its turn
    among the replicas), free (nothing tells to wait). `unpinned`: not for the candidate that the
    queue tries, which has no room.
    """

    key: QueueKey
    address: str
    rows: int
    reason: str
    unpinned: bool = False


@dataclass(slots=True)
class _Model:
    """What is remembered of a model."""

    pace: Pace
    fleet: Fleet
    addresses: tuple[str, ...] = ()
    added_up_at: float = float("-inf")
    rate: float = 0.0
    # Batches in flight.
    flights: int = 0
    # Rows of the batch to aim at, and when an endpoint has room.
    best: int = 1
    free_at: float = float("-inf")


@dataclass(slots=True)
class _Draft:
    """A batch that may leave: to whom, when it would begin there, rows to aim at."""

    key: QueueKey
    address: str
    best: int
    latency: BatchLatency
    begins_at: float

    def fit(self, due_at: float) -> int:
        """As `Fit`."""
        return self.latency.fit(due_at - self.begins_at)


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """Rows a second that arrive, the replicas taken together, rows of the batch to aim at."""

    rate: float
    fleet: Fleet
    best: int


class Schedule:
    """Decides one batch at a time; the shell sends it and asks again until there is none."""

    def __init__(
        self, queues: Queues, balance: Balance, speeds: Speeds, tuning: Tuning | None = None
    ) -> None:
        self._queues = queues
        self._balance = balance
        self._speeds = speeds
        self._tuning = tuning or Tuning()
        self._models: dict[str, _Model] = {}
        self.way = Way()
        self._wake_at = INFINITY

    def on_endpoints(self, now: float) -> None:
        """Endpoints came, went, or serve other models."""
        self._speeds.keep(self._balance.addresses())
        for name, model in self._models.items():
            model.addresses = self._balance.serving(name)
            self._add_up(name, model, now)

    def on_sent(self, flight_id: int, key: QueueKey, address: str, rows: int, now: float) -> None:
        """A batch went to an endpoint."""
        self._speeds.on_sent(flight_id, address, key.model, rows, now)
        model = self._model(key.model, now)
        model.pace.dispatched_at = now
        model.flights += 1
        self._free_at(key.model, model, now)
        self._quote(key.model, model)

    def on_answered(self, flight_id: int, key: QueueKey, now: float) -> Observation | None:
        """A batch was answered; what that tells of its endpoint.

        A candidate's batches teach nothing: how fast the version beside it is decides.
        """
        seen = self._speeds.on_answered(flight_id, now, typical=not key.candidate)
        self._on_landed(key, now)
        return seen

    def on_ended(self, flight_id: int, key: QueueKey, now: float) -> None:
        """A batch ended otherwise."""
        self._speeds.on_ended(flight_id, now)
        self._on_landed(key, now)

    def next(self, now: float) -> Order | None:
        """The next batch that may leave now; None if none may. What is late is pruned before."""
        self._wake_at = INFINITY
        for key in self._by_urgency():
            order = self._order(key, now)
            if order is not None:
                return order
        return None

    def probe(self, key: QueueKey, now: float) -> str | None:
        """A slow endpoint with nothing to do that may be asked a copy of a row."""
        if not self._speeds.any_slow(key.model):
            return None
        return self._speeds.take_probe(
            key.model,
            (address for load, address in self._balance.open(key.model, 0, ()) if not load),
            now,
        )

    def overdue_at(self, flight_id: int) -> float:
        """From when on a batch takes so long that its endpoint seems stuck."""
        return self._speeds.overdue_at(flight_id)

    def next_wakeup(self) -> float | None:
        """When a batch may leave for whose sake nothing else has to happen.

        After `next(now)` returned None it is later than `now`.
        """
        return None if self._wake_at == INFINITY else self._wake_at

    def ratio(self, address: str, model: str) -> float:
        """How much longer the endpoint takes than the fastest one."""
        return self._speeds.ratio(address, model)

    def speeds(self) -> dict[tuple[str, str], SpeedSnapshot]:
        """By endpoint and model."""
        return self._speeds.snapshot()

    def snapshot(self) -> dict[str, ModelSnapshot]:
        """By model."""
        return {
            name: ModelSnapshot(model.rate, model.fleet, model.best)
            for name, model in self._models.items()
        }

    def _by_urgency(self) -> list[QueueKey]:
        """Queues of which batches are made, by class, then by when a batch has to leave."""
        keys = [key for key in self._queues.waiting() if not key.alone]
        if len(keys) < 2:
            return keys
        return sorted(keys, key=self._urgency)

    def _urgency(self, key: QueueKey) -> tuple[int, float]:
        outline = self._queues.outline(key)
        if outline is None:
            return (0, INFINITY)
        fleet = self._model(key.model, 0.0).fleet
        return outline.priority, outline.due_at - fleet.margin * fleet.seconds(1)

    def _order(self, key: QueueKey, now: float) -> Order | None:
        address, unpinned = self.pick(key.model, key.version, (), now), False
        if address is None and key.candidate:
            # Nobody waits for a candidate while another version would have room.
            address, unpinned = self.pick(key.model, 0, (), now), True
        if address is None:
            self._wake_at = min(self._wake_at, self._last_resort_at(key, now))
            return None
        outline = self._queues.outline(key)
        if outline is None:
            return None
        model = self._model(key.model, now)
        best = self._best(key, model, outline, now)
        if self._balance.inflight(address) and outline.rows < best * FOLLOWING_SHARE:
            return None
        latency = self._speeds.latency(address, key.model)
        draft = _Draft(key, address, best, latency, max(now, self._speeds.ends_at(address)))
        order = None if self._waits(draft, outline, now) else self._cut(draft, outline, now)
        return replace(order, unpinned=True) if order is not None and unpinned else order

    def _waits(self, draft: _Draft, outline: Outline, now: float) -> bool:
        """Whether the batch may wait to become larger; if so, somebody looks again in time."""
        if outline.rows >= draft.best:
            return False
        until = self._until(draft, outline)
        if now >= until:
            return False
        self._wake_at = min(self._wake_at, until)
        return True

    def _cut(self, draft: _Draft, outline: Outline, now: float) -> Order | None:
        """The batch that leaves now, as large as is in time; None if what is left may wait."""
        key = draft.key
        most = room = max(key.max_rows, 1)
        if draft.fit(outline.tightest_at) < min(most, outline.rows):
            before = outline.rows
            self._queues.trim(key, draft.fit, draft.best, now)
            left = self._queues.outline(key)
            if left is None:
                return None
            outline, room = left, self._queues.room(key, draft.fit, most)
            trimmed = outline.rows < before
            if trimmed and outline.rows <= room and self._waits(draft, outline, now):
                return None
        reason = self._reason(draft, min(outline.rows, room), outline)
        return Order(key, draft.address, room if key.max_rows else 0, reason)

    def _best(self, key: QueueKey, model: _Model, outline: Outline, now: float) -> int:
        """Rows of the batch to aim at."""
        batch_s = model.fleet.seconds(model.best)
        model.rate = model.pace.rate(self._queues.arrived(key.model), batch_s, now)
        most = max(key.max_rows, 1)
        best = best_rows(model.fleet, outline.budget_s, most, self._tuning.preferred)
        if best != model.best:
            model.best = best
            self._quote(key.model, model)
        return best

    def _reason(self, draft: _Draft, rows: int, outline: Outline) -> str:
        if rows >= draft.best:
            return "full"
        if rows < outline.rows:
            return "due"
        return "paced" if self._models[draft.key.model].flights else "free"

    def _until(self, draft: _Draft, outline: Outline) -> float:
        """How long a batch that could be larger may wait."""
        model, latency = self._models[draft.key.model], draft.latency
        # With nothing under way a pause gains nothing: one endpoint is never paced.
        paced = model.flights > 0
        at = model.pace.next_at(model.fleet, draft.best, model.rate) if paced else draft.begins_at
        if self._tuning.delay_s:
            at = max(at, outline.oldest_at + self._tuning.delay_s)
        if not latency.known:
            return at
        # One row more than waits has to be in time still; behind another batch as well.
        return min(at, outline.due_at - latency.bound(outline.rows + 1))

    def pick(self, model: str, version: int, avoid: Collection[str], now: float) -> str | None:
        """The endpoint for the next batch of a model; None if none that should be asked has room.

        The least loaded of those that are about as fast as the fastest, then the others by speed.
        """
        found: tuple[float, int, str] | None = None
        for inflight, address in self._balance.open(model, version, avoid):
            if inflight and not self._second(address, model):
                continue
            if self._speeds.slow(address, model) or self._speeds.overdue(address, now):
                continue
            handicap = self._speeds.handicap(address, model)
            if not inflight and handicap == 1.0:
                return address
            rank = (inflight + handicap, inflight, address)
            found = rank if found is None or rank < found else found
        return found[2] if found is not None else self._last_resort(model, version, avoid, now)

    def _last_resort(
        self, model: str, version: int, avoid: Collection[str], now: float
    ) -> str | None:
        """Any with nothing in flight, where all that may be asked are slow or overdue."""
        if not self._speeds.any_slow(model):
            return None
        for address in self._balance.candidates(model, version, avoid):
            if not self._speeds.slow(address, model) and not self._speeds.overdue(address, now):
                return None
        for inflight, address in self._balance.open(model, version, avoid):
            if not inflight:
                return address
        return None

    def _last_resort_at(self, key: QueueKey, now: float) -> float:
        """From when on a slow endpoint is asked, if the others answer nothing until then."""
        if not self._speeds.any_slow(key.model):
            return INFINITY
        return max(
            (
                self._speeds.stuck_at(address)
                for address in self._balance.candidates(key.model, key.version, ())
                if not self._speeds.slow(address, key.model)
                and not self._speeds.overdue(address, now)
            ),
            default=INFINITY,
        )

    def _second(self, address: str, model: str) -> bool:
        """Whether a second batch in flight gains anything at the endpoint."""
        latency = self._speeds.latency(address, model)
        return not latency.known or self.way.mean_s > WAY_SHARE * latency.predict(1)

    def _model(self, name: str, now: float) -> _Model:
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = _Model(Pace(), Fleet(), self._balance.serving(name))
            self._add_up(name, model, now)
        return model

    def _on_landed(self, key: QueueKey, now: float) -> None:
        self._model(key.model, now).flights -= 1
        self._refresh(key.model, now)

    def _refresh(self, name: str, now: float) -> None:
        model = self._model(name, now)
        if now - model.added_up_at >= ADD_UP_EVERY_S * max(len(model.addresses) - FEW, 0):
            self._add_up(name, model, now)
        else:
            self._quote(name, model)

    def _add_up(self, name: str, model: _Model, now: float) -> None:
        model.fleet = self._speeds.fleet(name, model.addresses, now)
        model.added_up_at = now
        self._free_at(name, model, now)
        self._quote(name, model)

    def _free_at(self, name: str, model: _Model, now: float) -> None:
        """Of a large fleet somebody is free soon, and finding out when costs too much."""
        if model.flights < len(model.addresses) or len(model.addresses) > FEW:
            model.free_at = now
            return
        model.free_at = min(
            (
                self._speeds.ends_at(address)
                for address in model.addresses
                if not self._speeds.overdue(address, now) and not self._speeds.slow(address, name)
            ),
            default=now,
        )

    def _quote(self, name: str, model: _Model) -> None:
        fleet, best = model.fleet, model.best
        if not fleet.replicas:
            self._queues.quote(name, Quote())
            return
        self._queues.quote(
            name,
            Quote(
                fleet.margin * fleet.seconds(1),
                fleet.margin * fleet.beta_s,
                best,
                fleet.seconds(best) / fleet.replicas,
                model.free_at,
                model.pace.dispatched_at + _quote_s(fleet),
            ),
        )


def _quote_s(fleet: Fleet) -> float:
    """Seconds for which what is known may refuse requests without a batch that confirms it."""
    return PROBE_EVERY_S + fleet.margin * fleet.seconds(1)
