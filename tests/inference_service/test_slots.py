"""Slots under threads: a load and a batch never meet in one, and a flip loses nobody."""

from __future__ import annotations

import threading

from inference_service.slot import Slots, SlotSnapshot, SlotState
from tests.inference_service.line import Line

EMPTY = SlotSnapshot(SlotState.EMPTY, 0, 0)


def loaded(slots: Slots, line: Line, version: int) -> None:
    manifest = line.store.manifest("affine", version)
    slots.flip(slots.begin_load(manifest), manifest)


def test_a_flip_keeps_the_previous_version_by(line):
    for weight in (1.0, 2.0, 3.0):
        line.publish(weight)
    slots = Slots()
    assert slots.snapshot() == (EMPTY, EMPTY)
    assert slots.pin() is None
    loaded(slots, line, 1)
    loaded(slots, line, 2)
    assert slots.snapshot() == (
        SlotSnapshot(SlotState.STANDBY, 1, 0),
        SlotSnapshot(SlotState.SERVING, 2, 0),
    )
    assert slots.pin().version == 2
    assert slots.pin(1).version_text == "1"
    assert slots.pin(3) is None
    assert slots.holds(1)
    assert repr(slots) == "Slots(STANDBY version 1 pins 1, SERVING version 2 pins 1)"


def test_a_load_waits_for_the_pins_of_its_slot_and_takes_no_new_ones(line):
    for weight in (1.0, 2.0, 3.0):
        line.publish(weight)
    slots = Slots()
    loaded(slots, line, 1)
    loaded(slots, line, 2)
    pinned = slots.pin(1)
    begun = threading.Event()

    def load() -> None:
        slots.begin_load(line.store.manifest("affine", 3))
        begun.set()

    loading = threading.Thread(target=load, daemon=True)
    loading.start()
    while slots.snapshot()[0].state is not SlotState.LOADING:
        begun.wait(0.001)
    assert not begun.is_set()
    assert pinned.version_text == "1", "a batch still names the version it runs on"
    assert slots.pin(1) is None
    assert slots.pin(3) is None
    slots.release(pinned)
    loading.join(10)
    assert begun.is_set()
    assert slots.snapshot()[0] == SlotSnapshot(SlotState.LOADING, 3, 0)
    slots.abandon_load(slots.idle())
    assert slots.snapshot() == (EMPTY, SlotSnapshot(SlotState.SERVING, 2, 0))


def test_a_version_set_aside_can_be_flipped_to(line):
    line.publish(1.0)
    line.publish(2.0)
    slots = Slots()
    loaded(slots, line, 1)
    slots.set_aside(slots.begin_load(line.store.manifest("affine", 2)))
    assert slots.serving.version == 1
    assert slots.standby(1) is None
    slots.flip(slots.standby(2), line.store.manifest("affine", 2))
    assert slots.serving.version == 2
    assert slots.standby(1) is not None


def test_a_revision_stays_with_its_slot_and_only_what_serves_tells_it(line):
    for weight in (1.0, 2.0, 3.0):
        line.publish(weight)
    first, second, third = (line.store.manifest("affine", version) for version in (1, 2, 3))
    slots = Slots()
    slots.flip(slots.begin_load(first), first, 4)
    one = slots.pin()
    assert (one.revision, one.provenance(0).revision) == (4, 4)
    slots.set_aside(slots.begin_load(second))
    assert slots.standing_by == 2
    two = slots.pin(2)
    assert (two.revision, two.provenance(0).revision) == (0, 0)
    slots.flip(two, second, 6)
    assert slots.standing_by == 1
    # Whoever pinned it while it served is not told that it is older than it was.
    assert (one.revision, one.provenance(0).revision) == (4, 0)
    slots.note_revision(7)
    assert (two.revision, two.provenance(0).revision) == (7, 7)
    slots.release(one)
    assert slots.begin_load(third).revision == 0
    assert slots.standing_by == 0


def test_readers_and_a_loader_never_meet(line):
    versions = 300
    for weight in range(versions):
        line.publish(float(weight))
    manifests = [line.store.manifest("affine", v) for v in range(1, versions + 1)]
    slots = Slots()
    slots.flip(slots.begin_load(manifests[0]), manifests[0])
    met, done = [], threading.Event()

    def read() -> None:
        while not done.is_set():
            slot = slots.pin()
            before = slot.version
            # Whatever else happens to the slot, its version stays until the pin is given back.
            done.wait(0)
            if (slot.version, slot.version_text) != (before, str(before)):
                met.append(before)
            slots.release(slot)

    readers = [threading.Thread(target=read, daemon=True) for _ in range(3)]
    for reader in readers:
        reader.start()
    for manifest in manifests[1:]:
        slots.flip(slots.begin_load(manifest), manifest)
    done.set()
    for reader in readers:
        reader.join(10)
    assert met == []
    assert all(slot.pins == 0 for slot in slots.snapshot())
