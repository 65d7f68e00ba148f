"""How fast each endpoint is, by model: learned latencies, who is slow, who is overdue.

A batch's time runs from when it was sent, or from when the endpoint answered the one before it if
that was later: an endpoint computes one batch at a time. An endpoint is *slow* for a model if it
takes three times as long as the fastest one, for a batch as they are lately and for one as it had
itself; one that takes half as long again has a *handicap*. It is *overdue* while what is in flight
takes three times as long as expected, which tells of a stopped process long before any health
check. Slow and overdue ones get no ordinary batches; now and then a slow one is asked a copy of
one row, so that one that recovers is found, and nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from gateway.policy.latency import BatchLatency, LatencySnapshot
from gateway.policy.pacing import Fleet

SLOW = 3.0
# Endpoints this much slower than the fastest are asked after the others.
NOTICEABLE = 1.5
# Either, and by so much: below that it is the noise of two processes that share a machine.
SLOWER_AT_LEAST_S = 0.002
# Of the span that is expected, and never so soon that a stall of this process looks like theirs.
OVERDUE = 3.0
OVERDUE_AT_LEAST_S = 0.05
PROBE_EVERY_S = 0.2
# Of a batch's rows in the average by which endpoints are compared.
TYPICAL_WEIGHT = 0.05


@dataclass(slots=True)
class _Flight:
    address: str
    model: str
    rows: int
    sent_at: float
    # When it is expected to end.
    ends_at: float


@dataclass(slots=True)
class _Endpoint:
    latencies: dict[str, BatchLatency] = field(default_factory=dict)
    # Models of which it answered a batch.
    warm: set[str] = field(default_factory=set)
    # Ids of what is in flight, in order of sending.
    flights: dict[int, _Flight] = field(default_factory=dict)
    answered_at: float = float("-inf")
    probed_at: float = float("-inf")


@dataclass(frozen=True, slots=True)
class Observation:
    """What a batch at an endpoint took, and was expected to take; 0 if nothing was known."""

    address: str
    expected_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class SpeedSnapshot:
    """What is known of one endpoint and model; `ratio` is to the fastest endpoint."""

    latency: LatencySnapshot
    ratio: float
    slow: bool


class Speeds:
    """Follows every batch by its id; endpoints are named by address."""

    def __init__(self) -> None:
        self._endpoints: dict[str, _Endpoint] = {}
        self._flights: dict[int, _Flight] = {}
        # Rows of a batch lately, and the endpoint that is fastest with so many, by model.
        self._typical: dict[str, float] = {}
        self._fastest: dict[str, BatchLatency] = {}
        # Models of which an endpoint was slow when the fleet was last added up.
        self._with_slow: set[str] = set()

    def on_sent(self, flight_id: int, address: str, model: str, rows: int, now: float) -> None:
        """A batch went to the endpoint."""
        endpoint = self._endpoints.setdefault(address, _Endpoint())
        begins_at = max(now, self.ends_at(address))
        ends_at = begins_at + self.latency(address, model).predict(rows)
        flight = _Flight(address, model, rows, now, ends_at)
        endpoint.flights[flight_id] = self._flights[flight_id] = flight

    def on_answered(
        self, flight_id: int, now: float, *, typical: bool = True
    ) -> Observation | None:
        """The endpoint answered it; None if that tells nothing: its first batch of the model.

        Nothing is learned from one that is not `typical` of what is to come.
        """
        first = self._is_first(flight_id)
        flight = self._forget(flight_id)
        if flight is None:
            return None
        endpoint = self._endpoints[flight.address]
        seconds = now - max(flight.sent_at, endpoint.answered_at)
        endpoint.answered_at = now
        seen = self._learn(endpoint, flight, seconds, typical)
        if first:
            self._begin_next(endpoint, now)
        return seen

    def on_ended(self, flight_id: int, now: float) -> None:
        """It ended without an answer."""
        first = self._is_first(flight_id)
        flight = self._forget(flight_id)
        if flight is not None and first:
            # What was sent behind it began now at the earliest.
            endpoint = self._endpoints[flight.address]
            endpoint.answered_at = now
            self._begin_next(endpoint, now)

    def keep(self, addresses: Collection[str]) -> None:
        """Forgets all other endpoints: they are gone."""
        for address in self._endpoints.keys() - set(addresses):
            for flight_id in self._endpoints.pop(address).flights:
                del self._flights[flight_id]

    def latency(self, address: str, model: str) -> BatchLatency:
        """What is known of the endpoint's batches of the model."""
        endpoint = self._endpoints.get(address)
        if endpoint is None:
            endpoint = self._endpoints[address] = _Endpoint()
        latency = endpoint.latencies.get(model)
        if latency is None:
            latency = endpoint.latencies[model] = BatchLatency()
        return latency

    def ends_at(self, address: str) -> float:
        """When what is in flight at the endpoint should have ended; long ago if nothing is."""
        endpoint = self._endpoints.get(address)
        if endpoint is None or not endpoint.flights:
            return float("-inf")
        return next(reversed(endpoint.flights.values())).ends_at

    def overdue_at(self, flight_id: int) -> float:
        """From when on the batch counts as overdue; never if nothing is known of it."""
        flight = self._flights.get(flight_id)
        if flight is None or not self.latency(flight.address, flight.model).known:
            return float("inf")
        expected_s = flight.ends_at - flight.sent_at
        return flight.sent_at + max(OVERDUE * expected_s, expected_s + OVERDUE_AT_LEAST_S)

    def stuck_at(self, address: str) -> float:
        """From when on the endpoint counts as overdue; never if nothing is in flight there."""
        endpoint = self._endpoints.get(address)
        if endpoint is None or not endpoint.flights:
            return float("inf")
        return self.overdue_at(next(iter(endpoint.flights)))

    def overdue(self, address: str, now: float) -> bool:
        """Whether the endpoint sits on a batch."""
        return self.stuck_at(address) <= now

    def slow(self, address: str, model: str) -> bool:
        """Whether the endpoint is much slower than the fastest, as of the last `fleet`."""
        return self._is_slow(model, self.latency(address, model))

    def any_slow(self, model: str) -> bool:
        """Whether any endpoint was slow at the last `fleet`: if not, nobody need be looked at."""
        return model in self._with_slow

    def ratio(self, address: str, model: str) -> float:
        """How much longer the endpoint takes than the fastest; 1 if nothing is known."""
        return self._ratio(model, self.latency(address, model))

    def handicap(self, address: str, model: str) -> float:
        """The same where it is more than noise, and 1 otherwise: who is asked after others.

        One that is asked after others is measured no more while the system is nearly idle.
        """
        latency = self.latency(address, model)
        return self._ratio(model, latency) if self._exceeds(model, latency, NOTICEABLE) else 1.0

    def fleet(self, model: str, addresses: Collection[str], now: float) -> Fleet:
        """The endpoints taken together, those that are slow or overdue left out."""
        known = [
            latency
            for address in addresses
            if (latency := self.latency(address, model)).known and not self.overdue(address, now)
        ]
        if not known:
            self._fastest.pop(model, None)
            return Fleet()
        typical = self._typical.get(model, 1.0)
        best = self._fastest[model] = min(known, key=lambda latency: latency.predict(typical))
        usable = [latency for latency in known if not self._is_slow(model, latency)]
        (self._with_slow.add if len(usable) < len(known) else self._with_slow.discard)(model)
        # Those of which nothing is known yet count as one of the others.
        unknown = sum(not self.latency(address, model).known for address in addresses)
        speed = sum(1 / max(self._ratio(model, latency), 1.0) for latency in usable)
        return Fleet(
            speed * (1 + unknown / len(known)),
            best.slowness * best.alpha_s,
            best.slowness * best.beta_s,
            best.margin,
        )

    def take_probe(self, model: str, addresses: Iterable[str], now: float) -> str | None:
        """A slow endpoint whose turn it is to be asked how fast it is; None if there is none."""
        for address in addresses:
            endpoint = self._endpoints.get(address)
            if (
                endpoint is not None
                and now - endpoint.probed_at >= PROBE_EVERY_S
                and self.slow(address, model)
            ):
                endpoint.probed_at = now
                return address
        return None

    def snapshot(self) -> dict[tuple[str, str], SpeedSnapshot]:
        """By endpoint and model, where anything is known."""
        return {
            (address, model): SpeedSnapshot(
                latency.snapshot(), self.ratio(address, model), self.slow(address, model)
            )
            for address, endpoint in self._endpoints.items()
            for model, latency in endpoint.latencies.items()
            if latency.known
        }

    def _learn(
        self, endpoint: _Endpoint, flight: _Flight, seconds: float, typical: bool
    ) -> Observation | None:
        if not typical:
            expected_s = self.latency(flight.address, flight.model).predict(flight.rows)
            return Observation(flight.address, expected_s, seconds)
        if flight.model not in endpoint.warm:
            # The first batch pays for the connection, and for all that was not yet warm.
            endpoint.warm.add(flight.model)
            return None
        rows = self._typical.setdefault(flight.model, float(flight.rows))
        self._typical[flight.model] = rows + TYPICAL_WEIGHT * (flight.rows - rows)
        latency = self.latency(flight.address, flight.model)
        expected_s = latency.predict(flight.rows)
        latency.on_batch(flight.rows, seconds)
        return Observation(flight.address, expected_s, seconds)

    def _begin_next(self, endpoint: _Endpoint, now: float) -> None:
        """Expects what is behind one that just ended from now on, not from when that should have.

        Otherwise one wrong guess would be wrong for all that follow while the endpoint is busy.
        """
        for flight in endpoint.flights.values():
            seconds = self.latency(flight.address, flight.model).predict(flight.rows)
            flight.ends_at = now = now + seconds

    def _is_slow(self, model: str, latency: BatchLatency) -> bool:
        return self._exceeds(model, latency, SLOW)

    def _exceeds(self, model: str, latency: BatchLatency, times: float) -> bool:
        """Whether it takes `times` as long as the fastest endpoint, and more than by noise."""
        fastest = self._fastest.get(model)
        if fastest is None or fastest is latency:
            return False
        for rows in (self._typical.get(model, 1.0), latency.rows):
            fastest_s = fastest.predict(rows)
            if latency.predict(rows) <= max(times * fastest_s, fastest_s + SLOWER_AT_LEAST_S):
                return False
        return True

    def _ratio(self, model: str, latency: BatchLatency) -> float:
        fastest = self._fastest.get(model)
        if fastest is None or fastest is latency or not latency.known:
            return 1.0
        return min(
            latency.predict(rows) / (fastest.predict(rows) or latency.predict(rows) or 1.0)
            for rows in (self._typical.get(model, 1.0), latency.rows)
        )

    def _is_first(self, flight_id: int) -> bool:
        """Whether nothing sent before it is in flight at its endpoint."""
        flight = self._flights.get(flight_id)
        return (
            flight is not None and next(iter(self._endpoints[flight.address].flights)) == flight_id
        )

    def _forget(self, flight_id: int) -> _Flight | None:
        flight = self._flights.pop(flight_id, None)
        if flight is not None:
            del self._endpoints[flight.address].flights[flight_id]
        return flight
