"""Loads: what is refused and why, and that a refusal changes nothing that serves."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from chassis import failpoints
from chassis.errors import Unavailable
from chassis.tensors import Signature, TensorSpec
from inference_service import fill
from inference_service.instance import Instance
from inference_service.loader import Loader
from inference_service.policy import cadence
from inference_service.rehearsal import Rehearsal
from inference_service.slot import SlotState
from inference_service.staging import Staging
from model_store.records import ProgramKind
from tests.inference_service.follower import Follower
from tests.inference_service.line import SIGNATURE, Affine, Line, expected

X = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_versions_load_as_they_are_published(line, follower):
    for weight in (1.0, 2.0, 3.0, 4.0):
        version = line.publish(weight, step=int(weight) * 10)
        snapshot = follower.wait_serving(version)
        answered, y = follower.answer(X)
        assert answered == version
        np.testing.assert_array_equal(y, expected(weight, X))
    assert (snapshot.wanted_version, snapshot.step, snapshot.swaps) == (4, 40, 4)
    assert [slot.version for slot in snapshot.slots] == [3, 4]
    assert snapshot.failures == ()
    assert snapshot.behind_ms == 0
    assert snapshot.last_load_ms > 0
    assert follower.first_flips == 1


def refused(line, follower, change, reason, *, serving=1):
    """Publishes version 2 changed; it must fail for `reason` while version 1 serves on."""
    line.publish(1.0)
    follower.wait_serving(1)
    version = line.publish(2.0, change=change)
    snapshot = follower.wait_failed(version)
    failure = snapshot.failures[0]
    assert (failure.version, failure.reason) == (version, reason), failure
    assert failure.fail_time_ms > 0
    assert (snapshot.serving_version, snapshot.wanted_version) == (serving, version)
    answered, y = follower.answer(X)
    assert answered == serving
    np.testing.assert_array_equal(y, expected(1.0, X))
    # The next good version heals it.
    line.publish(3.0)
    follower.wait_serving(version + 1)
    np.testing.assert_array_equal(follower.answer(X)[1], expected(3.0, X))
    return failure


def test_nan_weights(line, follower):
    weight = torch.ones(3, 4)
    weight[1, 2] = math.nan
    failure = refused(line, follower, line.with_tensor("weight", weight), "NON_FINITE")
    assert failure.message == "tensor 'weight' holds NaN"


def test_infinite_weights(line, follower):
    bias = torch.tensor([0.0, -math.inf, 0.0])
    failure = refused(line, follower, line.with_tensor("bias", bias), "NON_FINITE")
    assert failure.message == "tensor 'bias' holds an infinity"


def test_a_wrong_shape(line, follower):
    failure = refused(
        line, follower, line.with_tensor("weight", torch.ones(4, 3)), "SHAPE_MISMATCH"
    )
    assert failure.message == "tensor 'weight' has shape [4, 3]; the program expects [3, 4]"


def test_a_wrong_dtype(line, follower):
    change = line.with_tensor("bias", torch.zeros(3, dtype=torch.float64))
    failure = refused(line, follower, change, "DTYPE_MISMATCH")
    assert failure.message == "tensor 'bias' is FP64; the program expects FP32"


def test_an_unknown_tensor(line, follower):
    change = line.with_tensor("extra", torch.zeros(1))
    failure = refused(line, follower, change, "UNKNOWN_TENSOR")
    assert "'extra'" in failure.message


def test_a_missing_tensor(line, follower):
    def change(manifest):
        return replace(manifest, tensors=manifest.tensors[1:])

    failure = refused(line, follower, change, "MISSING_TENSOR")
    assert "'bias'" in failure.message


def test_a_changed_signature(line, follower):
    other = Signature(SIGNATURE.inputs, SIGNATURE.outputs, 16)
    refused(line, follower, lambda m: replace(m, signature=other), "SIGNATURE_CHANGED")


def test_a_probe_that_the_weights_do_not_meet(line, follower):
    probe = line.put_probe(Affine(2.0), wrong_by=0.5)
    failure = refused(line, follower, lambda m: replace(m, probe=probe), "PROBE_FAILED")
    assert "differs from the golden one by up to 0.5 in 6 of 6 values" in failure.message


def test_a_probe_that_is_not_one(line, follower):
    named = line.store.put_blob(b"nothing golden")

    def change(manifest):
        return replace(manifest, probe=replace(manifest.probe, digest=named))

    refused(line, follower, change, "BAD_PROBE")


def test_a_program_that_is_not_one(line, follower):
    program = line.put_program(ProgramKind.EXPORTED, b"not a program")
    refused(line, follower, lambda m: replace(m, program=program), "BAD_PROGRAM")


def test_a_module_that_breaks_its_signature(line, follower):
    promised = Signature(SIGNATURE.inputs, (TensorSpec("y", "FP32", (-1, 5)),), 8)
    version = line.publish(1.0, change=lambda m: replace(m, signature=promised, probe=None))
    failure = follower.wait_failed(version).failures[0]
    assert failure.reason == "BAD_OUTPUT"
    assert "promises FP32 of [-1, 5]" in failure.message


def test_a_signature_that_torch_cannot_serve(line, follower):
    words = Signature((TensorSpec("x", "BYTES", (-1, 1)),), SIGNATURE.outputs, 8)
    version = line.publish(1.0, change=lambda m: replace(m, signature=words))
    failure = follower.wait_failed(version).failures[0]
    assert failure.reason == "UNSUPPORTED_DATATYPE"
    assert "tensor 'x' is BYTES" in failure.message


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: bytes([content[0] ^ 1]) + content[1:],
        lambda content: b"",
    ],
    ids=["truncated", "bit flipped", "emptied"],
)
def test_a_damaged_blob(tmp_path, file_store, damage):
    line = Line(file_store)
    for weight in (1.0, 2.0):
        line.publish(weight)
    with Follower(f"file://{tmp_path}/store") as follower:
        follower.wait_serving(2)
        follower.wait_serving(line.publish(3.0))
        (blob,) = new_files(tmp_path, lambda: line.with_tensor("weight", torch.full((3, 4), 5.0)))
        change = line.with_tensor("weight", torch.full((3, 4), 5.0))
        blob.chmod(0o600)
        blob.write_bytes(damage(blob.read_bytes()))
        version = line.publish(3.0, change=change)
        snapshot = follower.wait_failed(version)
        assert snapshot.failures[0].reason == "DIGEST_MISMATCH"
        # It showed before a slot was given up: the way back is still there.
        assert [slot.version for slot in snapshot.slots] == [2, 3]
        np.testing.assert_array_equal(follower.answer(X)[1], expected(3.0, X))


@pytest.fixture
def in_place(monkeypatch):
    """Every tensor is as large as one that is read into its place."""
    monkeypatch.setattr(fill, "IN_PLACE_BYTES", 1)


class Told(Staging):
    """Knows whether a load stages now."""

    active = 0

    @contextmanager
    def during(self):
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1

    def digest(self, view):
        assert self.active
        return super().digest(view)

    def copy(self, source, target):
        assert self.active
        super().copy(source, target)


def test_a_rehearsal_is_no_staging(line, monkeypatch):
    pace, seen = Told(), []
    steps = {name: getattr(Rehearsal, name) for name in ("warm_up", "prove")}

    def watched(name):
        def step(self, instance):
            seen.append(pace.active)
            return steps[name](self, instance)

        return step

    for name in steps:
        monkeypatch.setattr(Rehearsal, name, watched(name))
    line.publish(1.0)
    with Follower(line.store.url, pace=pace) as follower:
        follower.wait_serving(1)
    assert seen == [0, 0]


def test_what_is_read_into_its_place_serves(in_place, line, follower, monkeypatch):
    line.publish(1.0)
    follower.wait_serving(1)
    read = []
    into = follower.store.read_blob_into
    monkeypatch.setattr(
        follower.store, "read_blob_into", lambda name, *rest: read.append(name) or into(name, *rest)
    )
    for version in range(2, 6):
        line.publish(float(version))
        follower.wait_serving(version)
        np.testing.assert_array_equal(follower.answer(X)[1], expected(float(version), X))
    entries = [line.store.manifest("affine", version).tensors for version in range(2, 6)]
    weights = {entry.digest for tensors in entries for entry in tensors if entry.name == "weight"}
    assert set(read) == weights
    assert len(read) == len(weights)


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-1], lambda content: bytes([content[0] ^ 1]) + content[1:]],
    ids=["truncated", "bit flipped"],
)
def test_a_blob_damaged_and_read_into_its_place_never_serves(
    in_place, tmp_path, file_store, damage
):
    line = Line(file_store)
    for weight in (1.0, 2.0):
        line.publish(weight)
    with Follower(f"file://{tmp_path}/store") as follower:
        follower.wait_serving(2)
        changes = []
        weight = torch.full((3, 4), 5.0)
        (blob,) = new_files(tmp_path, lambda: changes.append(line.with_tensor("weight", weight)))
        blob.chmod(0o600)
        blob.write_bytes(damage(blob.read_bytes()))
        version = line.publish(3.0, change=changes[0])
        snapshot = follower.wait_failed(version)
        assert snapshot.failures[0].reason == "DIGEST_MISMATCH"
        assert sorted(slot.state.name for slot in snapshot.slots) == ["EMPTY", "SERVING"]
        np.testing.assert_array_equal(follower.answer(X)[1], expected(2.0, X))
        line.publish(4.0)
        follower.wait_serving(4)
        np.testing.assert_array_equal(follower.answer(X)[1], expected(4.0, X))


def test_a_blob_that_is_missing_shows_before_a_slot_is_given_up(
    in_place, tmp_path, file_store, monkeypatch
):
    line = Line(file_store)
    for weight in (1.0, 2.0):
        line.publish(weight)
    with Follower(f"file://{tmp_path}/store") as follower:
        follower.wait_serving(2)
        follower.wait_serving(line.publish(3.0))
        monkeypatch.setattr(follower.store, "missing_blobs", set)
        version = line.publish(4.0)
        snapshot = follower.wait(lambda s: bool(s.failures) and s.failures[0].version == version)
        assert snapshot.failures[0].reason == "BLOB_NOT_FOUND"
        assert [slot.version for slot in snapshot.slots] == [2, 3]


def new_files(folder: Path, act: Callable[[], object]) -> set[Path]:
    """The files that `act` made in `folder`."""
    before = set(folder.rglob("*"))
    act()
    return {path for path in set(folder.rglob("*")) - before if path.is_file()}


def test_a_refused_version_is_read_once(line, follower, monkeypatch):
    line.publish(1.0)
    follower.wait_serving(1)
    loads = []
    load = Loader._load
    monkeypatch.setattr(Loader, "_load", lambda self, v, at: loads.append(v) or load(self, v, at))
    line.publish(2.0, change=line.with_tensor("weight", torch.ones(4, 3)))
    follower.wait_failed(2)
    # Other changes of the model wake the watcher, not the refused version.
    line.store.move_channel("affine", "canary", 2, expected_revision=0, reason="test")
    line.publish(3.0)
    follower.wait_serving(3)
    assert loads == [2, 3]


def test_a_store_that_fails_on_the_way_is_tried_again(line, follower):
    line.publish(1.0)
    follower.wait_serving(1)
    failpoints.arm("load.after_fetch=error@1")
    line.publish(2.0)
    snapshot = follower.wait_serving(2)
    assert snapshot.failures[0].reason == "FAILPOINT"
    np.testing.assert_array_equal(follower.answer(X)[1], expected(2.0, X))


@pytest.mark.parametrize("point", ["load.after_fill", "load.before_flip"])
def test_a_failure_after_the_slot_was_given_up_leaves_it_empty(line, follower, point):
    line.publish(1.0)
    follower.wait_serving(1)
    line.publish(2.0)
    follower.wait_serving(2)
    failpoints.arm(f"{point}=error")
    line.publish(3.0)
    snapshot = follower.wait_failed(3)
    assert [slot.state for slot in snapshot.slots] == [SlotState.EMPTY, SlotState.SERVING]
    assert snapshot.serving_version == 2
    failpoints.arm("")
    follower.wait_serving(3)
    np.testing.assert_array_equal(follower.answer(X)[1], expected(3.0, X))


def test_rollback_flips_without_a_load(line, follower, monkeypatch):
    line.publish(1.0)
    follower.wait_serving(1)
    line.publish(2.0)
    follower.wait_serving(2)
    monkeypatch.setattr(follower.store, "read_blob", None)
    monkeypatch.setattr(follower.store, "manifest", None)
    line.rollback(1)
    snapshot = follower.wait_serving(1)
    assert snapshot.swaps == 3
    assert [slot.state for slot in snapshot.slots] == [SlotState.SERVING, SlotState.STANDBY]
    np.testing.assert_array_equal(follower.answer(X)[1], expected(1.0, X))
    np.testing.assert_array_equal(follower.answer(X, 2)[1], expected(2.0, X))


def test_a_version_rolled_back_while_it_loads_never_serves(line, follower):
    line.publish(1.0)
    follower.wait_serving(1)
    failpoints.arm("load.before_flip=sleep:0.3")
    line.publish(2.0)
    follower.wait(lambda s: s.load_step == "probe")
    line.rollback(1)
    snapshot = follower.wait(lambda s: s.slots[1].state is SlotState.STANDBY)
    assert (snapshot.serving_version, snapshot.swaps) == (1, 1)


def test_unchanged_tensors_are_not_read_again(line, follower, monkeypatch):
    line.publish(1.0, bias=5.0)
    follower.wait_serving(1)
    line.publish(2.0, bias=5.0)
    follower.wait_serving(2)
    reads, read_blob = [], follower.store.read_blob
    monkeypatch.setattr(
        follower.store, "read_blob", lambda named: reads.append(named) or read_blob(named)
    )
    # Weight is new, bias lies in both slots; then both lie in a slot.
    line.publish(3.0, bias=5.0)
    follower.wait_serving(3)
    manifest = line.store.manifest("affine", 3)
    entries = {entry.name: entry.digest for entry in manifest.tensors}
    assert reads == [entries["weight"], manifest.probe.digest]
    reads.clear()
    line.publish(2.0, bias=5.0)
    follower.wait_serving(4)
    assert reads == [line.store.manifest("affine", 4).probe.digest]
    np.testing.assert_array_equal(follower.answer(X)[1], expected(2.0, X, 5.0))


def test_swapped_tensors_end_where_they_belong(line, follower):
    """Both tensors have the same shape here, so that one could be copied over the other."""
    line.publish(1.0, bias=1.0)
    follower.wait_serving(1)
    three = torch.tensor([1.0, 2.0, 3.0])
    other = torch.tensor([4.0, 5.0, 6.0])
    for bias in (three, other, three, other, three):
        version = line.publish(1.0, change=_with_bias(line, bias))
        follower.wait_serving(version)
        np.testing.assert_array_equal(follower.answer(X)[1], expected(1.0, X) + bias.numpy())


def _with_bias(line, bias):
    def change(manifest):
        return replace(line.with_tensor("bias", bias)(manifest), probe=None)

    return change


def test_more_than_fits_into_staging_streams_into_the_slot(store_url, line):
    with Follower(store_url, staging=0) as follower:
        for weight in (1.0, 2.0, 3.0):
            follower.wait_serving(line.publish(weight))
            np.testing.assert_array_equal(follower.answer(X)[1], expected(weight, X))


def test_bytes_altered_in_the_slot_are_read_again(line, follower, monkeypatch):
    line.publish(1.0, bias=5.0)
    follower.wait_serving(1)
    line.publish(2.0, bias=5.0)
    follower.wait_serving(2)
    # A module that writes to its own buffers would do this to the slot that stands by.
    follower.served.slots.idle().instance.tensors["bias"].fill_(77.0)
    follower.wait_serving(line.publish(3.0, bias=5.0))
    np.testing.assert_array_equal(follower.answer(X)[1], expected(3.0, X, 5.0))


def test_an_import_path_runs_the_class(line, follower):
    path = b"tests.inference_service.line:AffineModel"
    program = line.put_program(ProgramKind.IMPORT_PATH, path)
    for weight in (1.0, 2.0, 3.0):
        version = line.publish(weight, change=lambda m: replace(m, program=program))
        follower.wait_serving(version)
        np.testing.assert_array_equal(follower.answer(X)[1], expected(weight, X))
    # And back to an exported program under the same signature.
    follower.wait_serving(line.publish(4.0))
    np.testing.assert_array_equal(follower.answer(X)[1], expected(4.0, X))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("tests.inference_service.line:BrokenModel", "BUILD_FAILED"),
        ("tests.inference_service.line:Affine", "BAD_IMPORT_PATH"),
        ("tests.inference_service.nowhere:Model", "BAD_IMPORT_PATH"),
    ],
)
def test_an_import_path_that_does_not_build(line, follower, path, reason):
    program = line.put_program(ProgramKind.IMPORT_PATH, path.encode())
    refused(line, follower, lambda m: replace(m, program=program), reason)


def test_import_paths_can_be_refused(store_url, line):
    program = line.put_program(ProgramKind.IMPORT_PATH, b"tests.inference_service.line:AffineModel")
    with Follower(store_url, allow_import_path=False) as follower:
        version = line.publish(1.0, change=lambda m: replace(m, program=program))
        assert follower.wait_failed(version).failures[0].reason == "IMPORT_PATH_REFUSED"


def test_a_fresh_replica_falls_back_when_the_wanted_version_is_bad(store_url, line):
    line.publish(1.0)
    line.publish(2.0)
    line.publish(3.0, change=line.with_tensor("weight", torch.ones(4, 3)))
    with Follower(store_url) as follower:
        snapshot = follower.wait_serving(2)
        assert snapshot.wanted_version == 3
        assert snapshot.failures[0].reason == "SHAPE_MISMATCH"
        assert snapshot.behind_ms >= 0


def test_a_store_that_went_back_is_not_followed(line, follower, monkeypatch):
    line.publish(1.0)
    follower.wait_serving(1)
    line.publish(2.0)
    follower.wait_serving(2)
    before = replace(line.store.channel("affine", "stable"), version=1, revision=1)
    monkeypatch.setattr(follower.store, "channel", lambda *_: before)
    snapshot = follower.wait(lambda s: bool(s.store_error))
    assert snapshot.store_error.startswith("CHANNEL_WENT_BACK: channel 'stable' of model 'affine'")
    assert "went back from version 2 (revision 2, epoch 0) to version 1" in snapshot.store_error
    assert snapshot.serving_version == 2
    monkeypatch.undo()
    follower.wait(lambda s: not s.store_error)


def test_a_store_that_does_not_answer_is_visible(line, follower, monkeypatch):
    line.publish(1.0)
    follower.wait_serving(1)

    def gone(*_arguments):
        raise Unavailable("STORE_UNAVAILABLE", "the store does not answer")

    monkeypatch.setattr(follower.store, "wait_for_change", gone)
    line.publish(2.0)
    sentence = "STORE_UNAVAILABLE: the store does not answer"
    snapshot = follower.wait(lambda s: s.store_error == sentence)
    assert snapshot.serving_version in (1, 2)
    monkeypatch.undo()
    follower.wait_serving(2)


def test_a_channel_made_later_is_found(store_url, line):
    with Follower(store_url) as follower:
        assert follower.served.snapshot().serving_version == 0
        assert not follower.served.ready
        follower.wait_serving(line.publish(1.0))
        assert follower.served.ready


def test_a_version_that_does_not_fit_is_named_and_tried_again(line, follower, monkeypatch):
    line.publish(1.0)
    follower.wait_serving(1)

    def no_room(_instance):
        # What torch says on a CPU; it has no class for it.
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 b")

    with monkeypatch.context() as patched:
        patched.setattr(Instance, "materialize", no_room)
        line.publish(2.0)
        failure = follower.wait_failed(2).failures[0]
    assert (failure.reason, failure.permanent) == ("OUT_OF_MEMORY", False)
    follower.wait_serving(2)


def test_versions_that_stop_coming_are_told_once_and_shown(line, follower, monkeypatch):
    monkeypatch.setattr(cadence, "LEAST_S", 0.3)
    monkeypatch.setattr(cadence, "TIMES", 1.5)
    with capture_logs() as events:
        for weight in (1.0, 2.0, 3.0, 4.0):
            line.publish(weight)
        snapshot = follower.wait(lambda s: s.irregularity is not None)
        assert snapshot.irregularity.reason == "PUBLICATIONS_OVERDUE"
        assert "since version 4" in snapshot.irregularity.message
        follower.wait(lambda _: any("publications" in event["event"] for event in events))
        line.publish(5.0)
        follower.wait(lambda s: s.irregularity is None)
    told = [event for event in events if "publications" in event["event"]]
    assert [(event["log_level"], event["reason"]) for event in told] == [
        ("warning", "PUBLICATIONS_OVERDUE")
    ]
