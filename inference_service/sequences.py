"""The sequences of one model at a replica: which version each runs on, and the states it carries.

A sequence begins with zeros, on the version that its first request got, and stays on it. New states
count once the request that computed them has succeeded; one that failed leaves them as they were.
It is dropped at its end or after `idle_s` without a request. A load that wants its slot waits for
it `hold_s` at most; then the sequence is lost, and is told so until it starts anew.

The device's thread runs sequences, loaders wait for them, the event loop sweeps. Thread-safe.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence as Values
from dataclasses import dataclass

import torch

from chassis.errors import InvalidArgument, ResourceExhausted
from chassis.sequences import SequenceId, Step, lost, not_started, other_version
from chassis.tensors import TensorSpec
from headrace.values import Value, moved, zero_state

REPLACED = "its version was replaced here"


@dataclass(frozen=True, slots=True)
class SequenceBounds:
    """Sequences of a model at once; seconds one may idle, and hold up a load."""

    most: int = 1024
    idle_s: float = 90.0
    hold_s: float = 30.0


@dataclass(slots=True, eq=False)
class Sequence:
    """One of them; `states` is empty until a request has computed some."""

    id: SequenceId
    version: int
    rows: int
    used_at: float
    states: tuple[Value, ...] = ()
    # Requests of it that the device works at.
    running: int = 0
    lost: bool = False


class Sequences:
    """All of one model, by caller and id."""

    def __init__(self, bounds: SequenceBounds | None = None) -> None:
        self._bounds = bounds or SequenceBounds()
        self._sequences: dict[tuple[str, SequenceId], Sequence] = {}
        self._changed = threading.Condition()
        self._stopping = False

    def __len__(self) -> int:
        return len(self._sequences)

    def begin(self, caller: str, step: Step) -> None:
        """A step's turn has come: a start forgets the sequence before it, whatever happens next."""
        if step.start:
            with self._changed:
                self._drop((caller, step.id))

    def version(self, caller: str, step: Step, asked: int, now: float) -> int:
        """The version that the step runs on; 0 for a start that asks for none.

        Raises InvalidArgument (SEQUENCE_NOT_STARTED), FailedPrecondition (SEQUENCE_LOST,
        SEQUENCE_VERSION) and ResourceExhausted (TOO_MANY_SEQUENCES).
        """
        with self._changed:
            self._expire(now)
            if step.start:
                self._check_room()
                return asked
            found = self._sequences.get((caller, step.id))
            if found is None:
                raise not_started(step.id)
            if found.lost:
                raise lost(step.id, REPLACED)
            if asked not in (0, found.version):
                raise other_version(step.id, version=found.version, asked=asked)
            return found.version

    def enter(self, caller: str, step: Step, *, version: int, rows: int, now: float) -> Sequence:
        """The step is about to run on `version`; `leave` follows.

        Raises InvalidArgument (SEQUENCE_ROWS): every request of a sequence has as many rows.
        """
        key = (caller, step.id)
        with self._changed:
            found = self._sequences.get(key)
            if found is None:
                found = self._sequences[key] = Sequence(step.id, version, rows, now)
            if found.states and rows != found.rows:
                raise InvalidArgument(
                    "SEQUENCE_ROWS",
                    f"the request has {rows} rows; sequence {step.id!r} began with {found.rows}",
                    field="inputs[0].shape",
                )
            found.used_at = now
            found.running += 1
            return found

    def leave(
        self, caller: str, step: Step, found: Sequence, states: Values[Value] | None, now: float
    ) -> None:
        """The step succeeded with new `states`; None: it failed, which changes nothing."""
        with self._changed:
            found.running -= 1
            found.used_at = now
            if states is not None and not found.lost:
                found.states = tuple(states)
            key = (caller, step.id)
            if states is not None and step.end and self._sequences.get(key) is found:
                self._drop(key)
            self._changed.notify_all()

    def on_not_loaded(self, caller: str, step: Step) -> None:
        """The version of a sequence turned out to be gone: it is lost."""
        with self._changed:
            found = self._sequences.get((caller, step.id))
            if found is not None:
                self._lose(found)

    def wait_released(self, version: int) -> None:
        """Blocks until no sequence runs on `version`, or `hold_s` is over and those left are lost.

        Returns at once after `stop`.
        """
        give_up_at = time.monotonic() + self._bounds.hold_s
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                self._expire(now)
                held = [each for each in self._sequences.values() if _holds(each, version)]
                if not held or now >= give_up_at:
                    break
                idle_at = min(each.used_at for each in held) + self._bounds.idle_s
                self._changed.wait(max(0.0, min(give_up_at, idle_at) - now))
            for each in self._sequences.values():
                if _holds(each, version):
                    self._lose(each)

    def expire(self, now: float) -> None:
        """Drops those that were idle for too long."""
        with self._changed:
            self._expire(now)

    def stop(self) -> None:
        """Wakes a loader that waits."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _check_room(self) -> None:
        if len(self._sequences) >= self._bounds.most:
            raise ResourceExhausted(
                "TOO_MANY_SEQUENCES",
                f"the replica keeps {self._bounds.most} sequences of this model, its bound; end "
                "some, or try again later",
            )

    def _expire(self, now: float) -> None:
        idle = [
            key
            for key, each in self._sequences.items()
            if not each.running and each.used_at + self._bounds.idle_s <= now
        ]
        for key in idle:
            self._drop(key)

    def _drop(self, key: tuple[str, SequenceId]) -> None:
        if self._sequences.pop(key, None) is not None:
            self._changed.notify_all()

    def _lose(self, found: Sequence) -> None:
        found.lost = True
        found.states = ()


def states_of(
    found: Sequence, specs: Values[TensorSpec], rows: int, device: torch.device
) -> list[Value]:
    """The states a step starts from: copies, so that one that fails half-way changes nothing.

    `rows` is 0 for a model without a batch dimension.
    """
    if not found.states:
        return [moved(zero_state(spec, rows), device) for spec in specs]
    return [state.clone() if isinstance(state, torch.Tensor) else state for state in found.states]


def _holds(each: Sequence, version: int) -> bool:
    return each.version == version and not each.lost
