"""A batch on its way: the attempts made, the endpoints that failed or refused it, the live attempt.

Also what can come back: a `BatchReply`, or a `Failure` with the status for the callers and the
fault that decides whether the batch goes again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from chassis.errors import HeadraceError, Unavailable
from gateway.ingress.batch import Batch, BatchReply
from gateway.ingress.generation import Generation
from gateway.policy.retry import INCAPABLE, Fault


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed: `error` is what callers get if it does not go again."""

    error: HeadraceError
    fault: Fault


@dataclass(frozen=True, slots=True)
class Ended:
    """A decoupled request was answered in full, by `version`; its responses came before."""

    version: str


Outcome = BatchReply | Ended | Failure
OnOutcome = Callable[[int, Outcome], None]

_FAULTS = {
    grpc.StatusCode.INVALID_ARGUMENT: Fault.INPUT,
    grpc.StatusCode.NOT_FOUND: Fault.REFUSED,
    grpc.StatusCode.FAILED_PRECONDITION: Fault.REFUSED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Fault.BUSY,
    grpc.StatusCode.UNAVAILABLE: Fault.BROKEN,
    grpc.StatusCode.INTERNAL: Fault.DEFECT,
}


def failure_of(error: HeadraceError) -> Failure:
    """The failure behind a status that an endpoint answered with."""
    return Failure(error, _FAULTS.get(error.code, Fault.FINAL))


def lost() -> Failure:
    """The endpoint broke off or fell mute before it answered."""
    return Failure(
        Unavailable("REPLICA_LOST", "the replica was lost before it answered"), Fault.BROKEN
    )


class Listener(Protocol):
    """Hears what becomes of a decoupled request, by the id it was sent under."""

    def on_response(self, delivery_id: int, reply: BatchReply) -> None:
        """A response came, in order."""

    def on_resumed(self, delivery_id: int) -> None:
        """The caller has room again: the next response is the replica's to give."""

    def on_outcome(self, delivery_id: int, outcome: Outcome) -> None:
        """It ended."""


class Carrier(Protocol):
    """Takes batches to endpoints, by address."""

    def send(
        self, address: str, delivery_id: int, batch: Batch, timeout_s: float, done: OnOutcome
    ) -> None:
        """Sends a batch; `done` is called once with the id, later, unless it is abandoned."""

    def generate(
        self,
        address: str,
        delivery_id: int,
        generation: Generation,
        timeout_s: float,
        listener: Listener,
    ) -> None:
        """Sends a decoupled request; `listener` hears each response and, once, later, the end.

        It ends at once when nobody waits for it any more.
        """

    def abandon(self, address: str, delivery_id: int) -> None:
        """The attempt took too long: it ends as lost.

        A batch takes with it what else is in flight at the endpoint, and looks away from there.
        """


@dataclass(slots=True, eq=False)
class Delivery:
    """A batch and its attempts; `check_at` is when a deadline or the attempt's timeout comes."""

    batch: Batch
    attempts: int = 0
    # Where it failed: elsewhere first. Where it was refused: only elsewhere.
    failed_on: set[str] = field(default_factory=set)
    refused_by: set[str] = field(default_factory=set)
    address: str = ""
    sent_at: float = 0.0
    abandon_at: float = float("inf")
    check_at: float = float("inf")
    # When another endpoint is asked as well; the other delivery of the batch if one was.
    hedge_at: float = float("inf")
    twin: Delivery | None = None
    # Nothing more comes of it.
    over: bool = False
    # When it came back, and with what; set while it waits for another attempt.
    returned_at: float = 0.0
    failure: Failure | None = None

    def on_sent(
        self, address: str, *, now: float, timeout_s: float, hedge_at: float = float("inf")
    ) -> None:
        """An attempt begins."""
        self.attempts += 1
        self.address = address
        self.sent_at = now
        self.abandon_at = now + timeout_s
        self.hedge_at = hedge_at
        self._look_again()

    @property
    def begun(self) -> bool:
        """Whether the caller got a part of the answer, which nobody else can go on with."""
        return isinstance(self.batch, Generation) and self.batch.begun

    def on_progress(self, *, now: float, timeout_s: float) -> None:
        """A response came, or may come again: the attempt has its time anew.

        None runs while the caller does not read: that is not the replica's fault.
        """
        held_up = isinstance(self.batch, Generation) and self.batch.full
        self.abandon_at = float("inf") if held_up else now + timeout_s
        self._look_again()

    def on_returned(self, failure: Failure, *, now: float) -> None:
        """The attempt failed and another one is due."""
        refused = failure.fault in INCAPABLE
        places = self.refused_by if refused else self.failed_on
        places.add(self.address)
        self.failure = failure
        self.returned_at = now
        self.abandon_at = self.hedge_at = float("inf")
        self._look_again()

    def on_expired(self, *, now: float) -> int:
        """Ends the requests whose deadline has passed; how many."""
        late = self.batch.expire(now)
        self._look_again()
        return late

    @property
    def shared(self) -> bool:
        """Whether the other delivery of the batch may still answer it."""
        return self.twin is not None and not self.twin.over

    def afresh(self, failure: Failure, *, now: float) -> Delivery:
        """The same batch for any endpoint, as if this attempt had not been made."""
        return Delivery(
            self.batch,
            self.attempts - 1,
            check_at=self.batch.deadline,
            returned_at=now,
            failure=failure,
        )

    def hedge(self, *, now: float) -> Delivery:
        """A second delivery of the batch, for another endpoint than this one's."""
        self.hedge_at = float("inf")
        self._look_again()
        self.twin = Delivery(
            self.batch,
            self.attempts,
            {*self.failed_on, self.address},
            set(self.refused_by),
            check_at=self.batch.deadline,
            twin=self,
            returned_at=now,
            failure=lost(),
        )
        return self.twin

    def forgo_hedge(self) -> None:
        """It stays with the one attempt."""
        self.hedge_at = float("inf")
        self._look_again()

    def _look_again(self) -> None:
        self.check_at = min(self.abandon_at, self.hedge_at, self.batch.deadline)

    def alone(self) -> list[Delivery]:
        """One delivery per request that still waits, with this one's attempts behind it."""
        return [
            Delivery(
                batch,
                self.attempts,
                set(self.failed_on),
                set(self.refused_by),
                check_at=batch.deadline,
                returned_at=self.returned_at,
                failure=self.failure,
            )
            for batch in self.batch.split()
        ]
