"""Which endpoints may take the next batch of a model.

Those with room, at most `max_inflight` batches in flight, in rotation; the one of these that should
is picked by speed in `schedule`, and by load alone here for what has no speed (`pick`). A pinned
version goes to an endpoint that says it holds it; where none says so, any is asked, because what an
endpoint says is a fraction of a second old. One gateway sees every batch it sends, so counting
beats sampling (power of two choices is for many gateways with stale counts). A sequence goes where
it began; its endpoint's *tenure*, one uninterrupted service of a model, tells whether that is still
the place it was.

Where endpoints tell at which revision of its channel a model's version began to serve
(`on_revision`), what is not pinned goes to those at the newest revision alone: whoever got an
answer of it never gets one from before it.

It also knows since when a model has had no endpoint, which bounds how long its requests wait.
Whether an endpoint is healthy is decided in `health`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

Versions = frozenset[int]
# Models that an endpoint takes batches of, with the versions it says it holds.
Serves = Mapping[str, Versions]


@dataclass(slots=True)
class _Seat:
    serves: Serves = field(default_factory=dict)
    inflight: int = 0
    # The number of its present service of each model.
    tenures: dict[str, int] = field(default_factory=dict)
    # Of the channel at which its serving version of each model began to serve.
    revisions: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BalanceSnapshot:
    """Batches in flight by endpoint, and the endpoints of each model that has any."""

    inflight: Mapping[str, int]
    serving: Mapping[str, tuple[str, ...]]


class Balance:
    """Counts what is in flight and picks; endpoints are named by address."""

    def __init__(self, *, max_inflight: int) -> None:
        self._max_inflight = max_inflight
        self._seats: dict[str, _Seat] = {}
        # Those with room, in rotation: a large fleet is busy most of the time, and to look at all
        # of it for each request would cost more than everything else.
        self._open: dict[str, _Seat] = {}
        self._unserved_since: dict[str, float] = {}
        # The newest revision of each model whose endpoints tell theirs.
        self._newest: dict[str, int] = {}
        self._tenures = 0

    def on_endpoint(self, address: str, serves: Serves, *, now: float) -> None:
        """The endpoint takes batches of these models from now on, and of no other."""
        seat = self._seats.setdefault(address, _Seat())
        if seat.inflight < self._max_inflight:
            self._open.setdefault(address, seat)
        before, seat.serves = seat.serves, dict(serves)
        for model in before.keys() - serves.keys():
            del seat.tenures[model]
            self._forget_revision(seat, model)
        self._note_outages(before, now)
        for model in serves:
            self._unserved_since.pop(model, None)
            if model not in seat.tenures:
                self._tenures += 1
                seat.tenures[model] = self._tenures

    def on_removed(self, address: str, *, now: float) -> None:
        """The endpoint is gone for good."""
        seat = self._seats.pop(address, None)
        self._open.pop(address, None)
        if seat is not None:
            for model in list(seat.revisions):
                self._forget_revision(seat, model)
            self._note_outages(seat.serves, now)

    def on_revision(self, address: str, model: str, revision: int) -> bool:
        """The endpoint's version of the model began to serve at that revision of the channel.

        Whether it is newer than any known before: the others are behind or not heard of yet.
        """
        seat = self._seats.get(address)
        if seat is None or model not in seat.serves or revision <= seat.revisions.get(model, 0):
            return False
        seat.revisions[model] = revision
        newer = revision > self._newest.get(model, 0)
        if newer:
            self._newest[model] = revision
        return newer

    def on_no_revision(self, address: str, model: str) -> None:
        """What the endpoint serves of the model has none any more: it was told a version."""
        seat = self._seats.get(address)
        if seat is not None:
            self._forget_revision(seat, model)

    def behind(self, model: str) -> list[str]:
        """Endpoints that serve the model at an older revision than the newest."""
        newest = self._newest.get(model, 0)
        return [
            address
            for address, seat in self._seats.items()
            if model in seat.serves and seat.revisions.get(model, 0) < newest
        ]

    def on_sent(self, address: str) -> None:
        """A batch went to the endpoint."""
        seat = self._seats[address]
        seat.inflight += 1
        # Kept in rotation: who has waited longest for a batch comes first.
        self._open.pop(address, None)
        if seat.inflight < self._max_inflight:
            self._open[address] = seat

    def on_ended(self, address: str) -> None:
        """A batch sent to the endpoint was answered, failed or was given up."""
        seat = self._seats.get(address)
        if seat is not None:
            seat.inflight -= 1
            if seat.inflight < self._max_inflight:
                self._open.setdefault(address, seat)

    def open(self, model: str, version: int, avoid: Collection[str]) -> Iterator[tuple[int, str]]:
        """Batches in flight and address of each endpoint with room, in rotation.

        Those of a pinned version only, if any says that it holds it.
        """
        for address, seat in self._serving(self._open, model, version, avoid):
            yield seat.inflight, address

    def candidates(self, model: str, version: int, avoid: Collection[str]) -> Iterator[str]:
        """The same, whether they have room or not."""
        return (address for address, _ in self._serving(self._seats, model, version, avoid))

    def addresses(self) -> Collection[str]:
        """All endpoints, whatever they serve."""
        return self._seats.keys()

    def serving(self, model: str) -> tuple[str, ...]:
        """Endpoints that take batches of the model."""
        return tuple(address for address, seat in self._seats.items() if model in seat.serves)

    def pick(self, model: str, version: int = 0, avoid: Collection[str] = ()) -> str | None:
        """The least loaded endpoint that may take something of the model; None if all are full."""
        free = [
            (inflight, at, address)
            for at, (inflight, address) in enumerate(self.open(model, version, avoid))
        ]
        return min(free)[2] if free else None

    def has_room_at(self, address: str) -> bool:
        """Whether this endpoint could take a batch now."""
        seat = self._seats.get(address)
        return seat is not None and seat.inflight < self._max_inflight

    def tenure(self, address: str, model: str) -> int:
        """Which service of the model this is, a new one after any interruption; 0 for none."""
        seat = self._seats.get(address)
        return seat.tenures.get(model, 0) if seat is not None else 0

    def has_candidate(self, model: str, avoid: Collection[str] = (), version: int = 0) -> bool:
        """Whether an endpoint outside `avoid` takes batches of the model, full or not.

        Of a pinned version any is asked; what is not pinned goes to the newest revision alone.
        """
        newest = 0 if version else self._newest.get(model, 0)
        return any(
            model in seat.serves and address not in avoid and seat.revisions.get(model, 0) >= newest
            for address, seat in self._seats.items()
        )

    def has_room(self) -> bool:
        """Whether any endpoint could take a batch of some model."""
        return any(seat.serves for seat in self._open.values())

    def unserved_since(self, model: str) -> float | None:
        """Since when no endpoint takes the model's batches; None where one does."""
        return self._unserved_since.get(model)

    def inflight(self, address: str) -> int:
        """Batches in flight at the endpoint."""
        seat = self._seats.get(address)
        return seat.inflight if seat else 0

    def snapshot(self) -> BalanceSnapshot:
        """Loads and placements now."""
        serving: dict[str, tuple[str, ...]] = {}
        for address, seat in self._seats.items():
            for model in seat.serves:
                serving[model] = (*serving.get(model, ()), address)
        loads = {address: seat.inflight for address, seat in self._seats.items()}
        return BalanceSnapshot(loads, serving)

    def _serving(
        self, seats: Mapping[str, _Seat], model: str, version: int, avoid: Collection[str]
    ) -> Iterator[tuple[str, _Seat]]:
        holds = bool(version) and any(
            version in seat.serves.get(model, ()) and address not in avoid
            for address, seat in self._seats.items()
        )
        newest = 0 if version else self._newest.get(model, 0)
        for address, seat in seats.items():
            versions = seat.serves.get(model)
            if versions is None or address in avoid or (holds and version not in versions):
                continue
            if not newest or seat.revisions.get(model, 0) >= newest:
                yield address, seat

    def _forget_revision(self, seat: _Seat, model: str) -> None:
        if seat.revisions.pop(model, 0):
            known = [other.revisions.get(model, 0) for other in self._seats.values()]
            self._newest[model] = max(known, default=0)

    def _note_outages(self, models: Collection[str], now: float) -> None:
        for model in models:
            if not self.has_candidate(model):
                self._unserved_since.setdefault(model, now)
