"""On which slot work runs, decided when its turn has come, and what its sequence keeps of it.

The slot is pinned at the last moment, so that work gets the newest version; a request of a sequence
gets the version of its sequence. Work that nobody waits for any more is refused.
"""

from __future__ import annotations

import time

from chassis.clock import wall_time_ms
from chassis.errors import DeadlineExceeded, FailedPrecondition, HeadraceError, Unavailable
from chassis.sequences import Step, lost
from inference_service.sequences import REPLACED
from inference_service.slot import Slot
from inference_service.work import Work


def placed(work: Work, now: float) -> Slot:
    """The slot for the work, pinned: `Slots.release` and `leave` follow.

    Raises Unavailable (ABANDONED), DeadlineExceeded, FailedPrecondition (VERSION_NOT_LOADED,
    BEHIND, TOO_STALE), and what `Sequences` does.
    """
    if work.step is not None:
        work.served.sequences.begin(work.caller, work.step)
    refused = _why_not(work, now)
    if refused is not None:
        raise refused
    if work.step is not None:
        return _placed_step(work, work.step, now)
    slot = work.served.slots.pin(work.version)
    if slot is None:
        raise _not_loaded(work)
    _check_revision(work, slot)
    _check_staleness(work, slot)
    return slot


def leave(work: Work) -> None:
    """The work has ended: its sequence takes over the new states, unless it failed."""
    found, work.sequence = work.sequence, None
    if found is not None and work.step is not None:
        states = work.states if work.error is None else None
        work.served.sequences.leave(work.caller, work.step, found, states, time.monotonic())
    work.states = []


def _placed_step(work: Work, step: Step, now: float) -> Slot:
    slots, sequences = work.served.slots, work.served.sequences
    slot = slots.pin(sequences.version(work.caller, step, work.version, now))
    if slot is None and step.start:
        raise _not_loaded(work)
    if slot is None:
        sequences.on_not_loaded(work.caller, step)
        raise lost(step.id, REPLACED)
    if step.start:
        # The others are bound to the version of the first.
        _check_revision(work, slot)
    _check_staleness(work, slot)
    try:
        work.sequence = sequences.enter(
            work.caller, step, version=slot.version, rows=work.inputs.rows, now=now
        )
    except HeadraceError:
        slots.release(slot)
        raise
    return slot


def _check_revision(work: Work, slot: Slot) -> None:
    """Gives the slot back where it began to serve before the revision asked for."""
    if work.version or slot.revision >= work.min_revision:
        return
    behind = FailedPrecondition(
        "BEHIND",
        f"version {slot.version} of model {work.served.name!r} serves here since revision "
        f"{slot.revision} of its channel; min_revision is {work.min_revision}",
        field="parameters[min_revision]",
    )
    work.served.slots.release(slot)
    raise behind


def _check_staleness(work: Work, slot: Slot) -> None:
    """Notes what the answer comes from; gives the slot back where that is too old."""
    # Here and not where the reply is made: by then a load may have refilled the slot.
    work.provenance = slot.provenance(wall_time_ms())
    age_ms, most_ms = work.provenance.age_ms, work.max_staleness_ms
    if most_ms is None or age_ms <= most_ms:
        return
    work.served.slots.release(slot)
    raise FailedPrecondition(
        "TOO_STALE",
        f"the weights of model {work.served.name!r} version {slot.version} are {age_ms} ms old; "
        f"max_staleness_ms is {most_ms}",
        field="parameters[max_staleness_ms]",
    )


def _why_not(work: Work, now: float) -> HeadraceError | None:
    if work.abandoned:
        return Unavailable("ABANDONED", "the caller is gone")
    if now > work.deadline:
        return DeadlineExceeded(
            "DEADLINE_EXCEEDED", "the deadline passed while the batch waited for the device"
        )
    return None


def _not_loaded(work: Work) -> HeadraceError:
    serving = work.served.slots.serving
    return FailedPrecondition(
        "VERSION_NOT_LOADED",
        f"version {work.version} of model {work.served.name!r} is not loaded here; version "
        f"{serving.version if serving is not None else 0} serves",
        field="model_version",
    )
