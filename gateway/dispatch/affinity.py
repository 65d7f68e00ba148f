"""Where the requests of sequences may go: `policy.sequences` together with `balance`.

It decides nothing; it asks both and words what callers are told of a sequence that is lost.
"""

from __future__ import annotations

from collections.abc import Callable

from chassis.errors import HeadraceError
from chassis.sequences import lost, other_version
from gateway.dispatch.delivery import Failure
from gateway.ingress.batch import Batch
from gateway.policy.balance import Balance
from gateway.policy.lane import QueueKey
from gateway.policy.sequences import Place, Sequences


class Affinity:
    """Follows every batch that is one request of a sequence; others never come here.

    `seats` gives the balance that counts a queue's batches.
    """

    def __init__(self, sequences: Sequences, seats: Callable[[QueueKey], Balance]) -> None:
        self._sequences = sequences
        self._seats = seats

    def loss(self, key: QueueKey) -> HeadraceError | None:
        """What the requests that wait are told if the sequence cannot go on."""
        number = key.sequence
        place = self._sequences.place(number)
        if place is not None and place.tenure != self._seats(key).tenure(place.address, key.model):
            self._sequences.on_place_gone(number)
        why = self._sequences.loss(number)
        return lost(self._sequences.id(number), why) if why else None

    def address_for(self, key: QueueKey) -> str | None:
        """The endpoint for the next request; None while there is none, or it may not go yet."""
        number = key.sequence
        if self._sequences.held(number) or self._sequences.loss(number):
            return None
        place = self._sequences.place(number)
        seats = self._seats(key)
        if place is None:
            return seats.pick(key.model, self._sequences.version(number))
        return place.address if seats.has_room_at(place.address) else None

    def objection(self, batch: Batch) -> HeadraceError | None:
        """Pins the batch to its sequence's version; what its caller is told if it must not go.

        It named another version, or the start before it was withdrawn a moment ago.
        """
        number = batch.key.sequence
        lost_already = self.loss(batch.key)
        if lost_already is not None:
            return lost_already
        version = self._sequences.version(number)
        if batch.pinned and version and batch.pinned != version:
            return other_version(self._sequences.id(number), version=version, asked=batch.pinned)
        batch.pinned = batch.pinned or version
        return None

    def on_sent(self, batch: Batch, address: str) -> None:
        """The batch went to an endpoint."""
        tenure = self._seats(batch.key).tenure(address, batch.key.model)
        self._sequences.on_sent(batch.key.sequence, Place(address, tenure))

    def on_answered(self, batch: Batch, version: str, now: float) -> None:
        """The batch was answered by `version`."""
        number = int(version) if version.isascii() and version.isdigit() else 0
        self._sequences.on_answered(batch.key.sequence, version=number, end=_ends(batch), now=now)

    def on_failed(self, batch: Batch, failure: Failure, now: float) -> HeadraceError:
        """The batch failed for good; what its caller is told."""
        number = batch.key.sequence
        begun = not self._sequences.may_move(number)
        named = self._sequences.id(number)
        why = self._sequences.on_failed(
            number, failure.fault, failure.error.reason, end=_ends(batch), now=now
        )
        return lost(named, why) if why and begun else failure.error

    def on_unsent(self, batch: Batch, now: float) -> None:
        """The batch was taken, and ended without having been sent."""
        step = batch.step
        assert step is not None
        self._sequences.on_left(batch.key.sequence, start=step.start, end=step.end, now=now)

    def may_move(self, batch: Batch) -> bool:
        """Whether another endpoint may be asked."""
        return self._sequences.may_move(batch.key.sequence)

    def expire(self, now: float) -> None:
        """Forgets the sequences that were idle for too long."""
        self._sequences.expire(now)

    def next_wakeup(self) -> float | None:
        """When the next one has been idle for too long."""
        return self._sequences.next_wakeup()


def _ends(batch: Batch) -> bool:
    return batch.step is not None and batch.step.end
