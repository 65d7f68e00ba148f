"""The weight slots of a model and the rule by which a batch and a load never meet in one.

A batch pins a slot and runs on it; a flip swaps which slot serves, under a lock held for
microseconds; a slot is refilled only after its pins have drained, and takes no pins meanwhile.
So readers never wait for a load, and a load waits for at most the batches that began before it.
What a slot holds is the `Instance`; this module never looks inside.

A model that does not fit twice has one slot. It is closed while it is refilled: nothing pins it,
and who wants to is woken when it opens again, with new weights or the old ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from chassis.provenance import Provenance
from inference_service.instance import Instance
from model_store.records import Manifest


class SlotState(Enum):
    """What a slot is doing; the values are those of headrace.v1.SlotState."""

    EMPTY = 1
    LOADING = 2
    SERVING = 3
    STANDBY = 4


@dataclass(eq=False, slots=True)
class Slot:
    """One place for weights. Only `Slots` changes it."""

    state: SlotState = SlotState.EMPTY
    pins: int = 0
    version: int = 0
    # "" in an empty slot; the text that replies carry.
    version_text: str = ""
    instance: Instance | None = None
    manifest: Manifest | None = None
    # Of the followed channel, at which the version began to serve; 0 where it never did, or serves
    # whatever the channel says. It stays while the slot stands by: a batch that pinned the serving
    # slot a moment before a flip is still one of that revision.
    revision: int = 0

    def provenance(self, now_ms: int) -> Provenance:
        """Of an answer computed on it at that wall-clock time; while it is pinned."""
        manifest = self.manifest
        assert manifest is not None
        revision = self.revision if self.state is SlotState.SERVING else 0
        age_ms = max(0, now_ms - manifest.fresh_time_ms)
        return Provenance(self.version, manifest.step, age_ms, revision)


@dataclass(frozen=True, slots=True)
class SlotSnapshot:
    """A slot at one moment."""

    state: SlotState
    version: int
    pins: int


class Slots:
    """The slots of a model, two or `one`. Thread-safe."""

    def __init__(self, *, one: bool = False) -> None:
        self.one = one
        self._slots: tuple[Slot, ...] = (Slot(),) if one else (Slot(), Slot())
        self._waiting: list[Callable[[], None]] = []
        self._serving: Slot | None = None
        self._lock = threading.Lock()
        self._drained = threading.Condition(self._lock)

    @property
    def serving(self) -> Slot | None:
        """The slot that answers; None before the first flip, never None after it until `clear`."""
        return self._serving

    def pin(self, version: int = 0) -> Slot | None:
        """The serving slot, or the one that holds `version`; None if no slot does.

        The slot keeps its weights until `release`.
        """
        with self._lock:
            slot = self._serving if version == 0 else self._ready(version)
            if slot is None or slot.state is SlotState.LOADING:
                return None
            slot.pins += 1
            return slot

    def hold(self, wake: Callable[[], None]) -> bool:
        """Whether the one slot is closed; then `wake` is called, in any thread, once it opens."""
        with self._lock:
            closed = self._closed()
            if closed:
                self._waiting.append(wake)
            return closed

    def close(self, timeout_s: float) -> Slot | None:
        """Closes the one slot once its last batch has ended; None where that takes too long.

        It is open again after `flip` or `open`.
        """
        (slot,) = self._slots
        with self._lock:
            slot.state = SlotState.LOADING
            drained = self._drained.wait_for(lambda: slot.pins == 0, timeout_s)
            if not drained:
                slot.state = SlotState.SERVING
                self._wake()
        return slot if drained else None

    def open(self, slot: Slot) -> None:
        """What the one slot held before serves again."""
        with self._lock:
            slot.state = SlotState.SERVING
            self._wake()

    def release(self, slot: Slot) -> None:
        """Gives a pin back."""
        with self._lock:
            slot.pins -= 1
            if not slot.pins and slot.state is SlotState.LOADING:
                self._drained.notify_all()

    def holds(self, version: int) -> bool:
        """Whether a batch pinned to `version` would run, if only after a wait."""
        with self._lock:
            if self._closed() and self._slots[0].version == version:
                return True
            return self._ready(version) is not None

    def idle(self) -> Slot:
        """The slot that does not serve; the only one, where there is one."""
        if self.one:
            return self._slots[0]
        return self._slots[0] if self._serving is not self._slots[0] else self._slots[1]

    def begin_load(self, manifest: Manifest) -> Slot:
        """Takes the idle slot out of use and waits until its last batch has ended."""
        slot = self.idle()
        with self._lock:
            # Pins drain, never the other way round: no new one comes to a loading slot. Until then
            # the slot keeps its version, which the batches on it still name in their answers.
            slot.state = SlotState.LOADING
            self._drained.wait_for(lambda: slot.pins == 0)
            _name(slot, manifest, 0)
        return slot

    def abandon_load(self, slot: Slot) -> None:
        """The load failed: the slot holds nothing that may answer."""
        with self._lock:
            slot.state = SlotState.EMPTY
            slot.version, slot.version_text, slot.manifest = 0, "", None

    def set_aside(self, slot: Slot) -> None:
        """The load succeeded but must not serve: it answers who asks for its version."""
        with self._lock:
            slot.state = SlotState.STANDBY

    def flip(self, slot: Slot, manifest: Manifest, revision: int = 0) -> None:
        """Batches pinned from now on run on `slot`, which holds `manifest`'s version as of that
        revision; the one that served stands by."""
        with self._lock:
            _name(slot, manifest, revision)
            if self._serving is not None:
                self._serving.state = SlotState.STANDBY
            slot.state = SlotState.SERVING
            self._serving = slot
            self._wake()

    def note_revision(self, revision: int) -> None:
        """What serves is from now on what the channel says at that revision."""
        with self._lock:
            if self._serving is not None:
                self._serving.revision = revision

    def clear(self) -> None:
        """Lets go of what both hold; for a model that is served no more and has no work left."""
        with self._lock:
            self._serving = None
            for slot in self._slots:
                slot.state = SlotState.EMPTY
                slot.version, slot.version_text = 0, ""
                slot.instance, slot.manifest = None, None
            self._wake()

    @property
    def standing_by(self) -> int:
        """The version that stands by; 0 for none."""
        with self._lock:
            return next((s.version for s in self._slots if s.state is SlotState.STANDBY), 0)

    def standby(self, version: int) -> Slot | None:
        """The slot that stands by with `version`, verified when it was loaded."""
        with self._lock:
            slot = self._ready(version)
            return slot if slot is not None and slot.state is SlotState.STANDBY else None

    def snapshot(self) -> tuple[SlotSnapshot, ...]:
        """Both slots at one moment."""
        with self._lock:
            return tuple(SlotSnapshot(s.state, s.version, s.pins) for s in self._slots)

    def __repr__(self) -> str:
        states = ", ".join(
            f"{s.state.name} version {s.version} pins {s.pins}" for s in self.snapshot()
        )
        return f"Slots({states})"

    def _closed(self) -> bool:
        serving = self._serving
        return self.one and serving is not None and serving.state is SlotState.LOADING

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def _ready(self, version: int) -> Slot | None:
        for slot in self._slots:
            ready = slot.state is SlotState.SERVING or slot.state is SlotState.STANDBY
            if ready and slot.version == version:
                return slot
        return None


def _name(slot: Slot, manifest: Manifest, revision: int) -> None:
    slot.version = manifest.version
    slot.version_text = str(manifest.version)
    slot.manifest = manifest
    slot.revision = revision
