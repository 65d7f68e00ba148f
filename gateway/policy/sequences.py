"""Requests that belong together: in order, one at a time, on one endpoint and one version.

A sequence is known by caller, model and id. Its life from a start to an end is a *run*:

    start admitted --sent--> at an endpoint --answered--> begun, version pinned --end--> gone
                                                            |
                                        endpoint gone, version refused: lost

A start begins a new run, which waits until the run before it of the same id has no request left.
Until an endpoint has dealt with the start, it may go to another one; from then on the run is bound:
what the endpoint holds for it is nowhere else. A run is lost with its endpoint's service of the
model, even a service that comes back: nobody knows what it still holds. A request that fails for
its own input changes nothing. A run without a request for `idle_s` is forgotten.

Where requests wait is the backlog's affair, which endpoint takes a start is decided in `balance`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gateway.policy.batching import Reject
from gateway.policy.retry import Fault

# How a run that cannot go on is explained to its caller.
ENDPOINT_GONE = "the replica that held it is gone"
NEVER_BEGAN = "its first request was not computed"
REFUSED = "its replica does not hold it any more"

# What a replica answers where it does not know, or can no longer serve, a run that it served.
_LOSSES = frozenset({"SEQUENCE_NOT_STARTED", "SEQUENCE_LOST"})
# An integer id holds both parts and stays below 2**63.
ORIGIN_BITS = 31
_WIRE_BITS = 32


class SequenceKey(NamedTuple):
    """A sequence as its caller names it; an integer id never equals a string."""

    caller: str
    model: str
    id: int | str


class Place(NamedTuple):
    """An endpoint during one uninterrupted service of the model (`Balance.tenure`)."""

    address: str
    tenure: int


@dataclass(slots=True, eq=False)
class _Run:
    number: int
    # What replicas know it by; a run that replaces another keeps its name, and so its room there.
    wire: int
    key: SequenceKey
    # The run of the same id that has to end first; once it is forgotten, the one before that.
    after: _Run | None = None
    place: Place | None = None
    version: int = 0
    # Requests admitted and not ended, and whether the first of them is under way.
    pending: int = 0
    flying: bool = False
    # Whether an endpoint has dealt with a request of it.
    begun: bool = False
    # An end was admitted; it was answered.
    closing: bool = False
    ended: bool = False
    loss: str = ""


@dataclass(frozen=True, slots=True)
class SequencesSnapshot:
    """Runs by what they are doing; `pending` counts their requests."""

    runs: int
    bound: int
    idle: int
    lost: int
    pending: int


class Sequences:
    """All sequences of a gateway. `origin`, of ORIGIN_BITS, tells it from other gateways."""

    def __init__(self, *, max_sequences: int, idle_s: float, origin: int = 0) -> None:
        self._max_sequences = max_sequences
        self._idle_s = idle_s
        self._origin = origin
        self._runs: dict[int, _Run] = {}
        # The newest run of each sequence.
        self._live: dict[SequenceKey, _Run] = {}
        # Runs without a request, by the time the last one ended; the longest idle first.
        self._idle: dict[int, float] = {}
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._runs)

    def offer(self, key: SequenceKey, *, start: bool, end: bool, version: int = 0) -> int | Reject:
        """The run that the request joins, by number; it ends by one of the `on_` methods.

        A start may pin the run's `version`. Rejects with SEQUENCE_NOT_STARTED, SEQUENCE_LOST or
        TOO_MANY_SEQUENCES.
        """
        run = self._live.get(key)
        if start:
            replaced = run is not None and not run.pending
            if len(self._runs) - replaced >= self._max_sequences:
                return Reject("TOO_MANY_SEQUENCES")
            run = self._begin(key, run)
            run.version = version
        elif run is None or run.closing:
            return Reject("SEQUENCE_NOT_STARTED")
        elif run.loss:
            return Reject("SEQUENCE_LOST")
        run.pending += 1
        run.closing = end
        self._idle.pop(run.number, None)
        return run.number

    def held(self, number: int) -> bool:
        """Whether the run's next request has to wait for another one's end."""
        run = self._runs[number]
        return run.flying or self._ahead(run) is not None

    def place(self, number: int) -> Place | None:
        """Where the next request has to go; None where any endpoint will do."""
        return self._runs[number].place

    def version(self, number: int) -> int:
        """The version that the run is pinned to; 0 before its first answer, if none was asked."""
        return self._runs[number].version

    def loss(self, number: int) -> str:
        """Why the run cannot go on; empty while it can."""
        return self._runs[number].loss

    def id(self, number: int) -> int | str:
        """What the run's caller knows it by."""
        return self._runs[number].key.id

    def wire_id(self, number: int) -> int | str:
        """What replicas know the run by: of the caller's kind, never another caller's id."""
        run = self._runs[number]
        if isinstance(run.key.id, str):
            return f"{self._origin:x}-{run.wire:x}"
        return self._origin << _WIRE_BITS | run.wire

    def on_place_gone(self, number: int) -> None:
        """The place of the run is no more; a request under way learns it by itself."""
        run = self._runs[number]
        if run.flying:
            return
        if run.begun:
            run.loss = run.loss or ENDPOINT_GONE
        run.place = None

    def on_sent(self, number: int, place: Place) -> None:
        """The run's next request went to an endpoint, or its start to another one."""
        run = self._runs[number]
        run.place = place
        run.flying = True

    def on_left(self, number: int, *, start: bool, end: bool, now: float) -> None:
        """A request of the run ended before it was sent."""
        run = self._runs[number]
        if start:
            run.loss = run.loss or NEVER_BEGAN
        self._on_unanswered(run, end, now)

    def on_answered(self, number: int, *, version: int, end: bool, now: float) -> None:
        """The request under way was answered by `version` (0: no number)."""
        run = self._runs[number]
        run.flying = False
        run.begun = True
        run.version = run.version or version
        run.ended = end
        self._on_request_ended(run, now)

    def may_move(self, number: int) -> bool:
        """Whether the request under way may be sent again: nothing has been computed before it."""
        return not self._runs[number].begun

    def on_failed(self, number: int, fault: Fault, reason: str, *, end: bool, now: float) -> str:
        """The request under way failed for good; why the run is lost with it, if it is."""
        run = self._runs[number]
        run.flying = False
        run.loss = run.loss or _loss(run.begun, fault, reason)
        run.begun = run.begun or not run.loss
        self._on_unanswered(run, end, now)
        return run.loss

    def expire(self, now: float) -> None:
        """Forgets the runs that were idle for too long."""
        while self._idle:
            number, since = next(iter(self._idle.items()))
            if since + self._idle_s > now:
                return
            run = self._runs[number]
            if self._ahead(run) is None:
                self._forget(run)
            else:
                # It never began, but a start that replaces it must know what it waits for.
                del self._idle[number]
                self._idle[number] = now

    def next_wakeup(self) -> float | None:
        """When a run has been idle for too long; after `expire(now)` later than `now`."""
        for since in self._idle.values():
            return since + self._idle_s
        return None

    def snapshot(self) -> SequencesSnapshot:
        """What lives now."""
        runs = self._runs.values()
        return SequencesSnapshot(
            runs=len(runs),
            bound=sum(run.place is not None for run in runs),
            idle=len(self._idle),
            lost=sum(bool(run.loss) for run in runs),
            pending=sum(run.pending for run in runs),
        )

    def _begin(self, key: SequenceKey, before: _Run | None) -> _Run:
        self._numbers += 1
        run = _Run(self._numbers, self._numbers, key)
        if before is not None:
            if not before.loss and not before.ended:
                # Where it was, the start also clears what was kept for the run before.
                run.wire, run.place = before.wire, before.place
            run.after = before if before.pending else self._ahead(before)
            if not before.pending:
                self._forget(before)
        self._runs[run.number] = self._live[key] = run
        return run

    def _ahead(self, run: _Run) -> _Run | None:
        """The newest run before this one that still has requests."""
        while run.after is not None and run.after.number not in self._runs:
            run.after = run.after.after
        return run.after

    def _on_unanswered(self, run: _Run, end: bool, now: float) -> None:
        if end:
            # What was to end it did not: it may go on.
            run.closing = False
        self._on_request_ended(run, now)

    def _on_request_ended(self, run: _Run, now: float) -> None:
        run.pending -= 1
        if run.pending:
            return
        if run.ended or self._live.get(run.key) is not run:
            self._forget(run)
        else:
            self._idle[run.number] = now

    def _forget(self, run: _Run) -> None:
        del self._runs[run.number]
        self._idle.pop(run.number, None)
        if self._live.get(run.key) is run:
            del self._live[run.key]


def _loss(begun: bool, fault: Fault, reason: str) -> str:
    if reason in _LOSSES:
        return REFUSED if begun else NEVER_BEGAN
    if not begun:
        # The endpoint that refused an input has begun the run; any other failure began nothing.
        return "" if fault is Fault.INPUT else NEVER_BEGAN
    if fault is Fault.BROKEN:
        return ENDPOINT_GONE
    return REFUSED if fault is Fault.REFUSED else ""
