"""Versions that are deltas, from a publisher through a store into slots: every bit, any order."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chassis.errors import DataLoss, FailedPrecondition
from headrace import Publisher
from inference_service import fill as fill_module
from inference_service.architecture import Choice, check_table
from inference_service.buffers import changing
from inference_service.engines.eager import Eager
from inference_service.fill import Fill
from inference_service.instance import Instance
from inference_service.precision import Precision
from inference_service.slot import SlotState
from model_store import Store, delta, open_store
from model_store.digests import digest
from model_store.publication import publish, rollback
from model_store.records import DeltaStep, Manifest
from tests.inference_service.follower import Follower
from tests.model_store.raw import raw_of
from tests.publisher.drifting import BATCH, MODEL, Drifting, Tied, drift, fresh, module_of, raw

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["file", "redis"])
def store_url(request, tmp_path: Path, redis_url: str) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/store"
    # A database of its own: this model's versions start at 1.
    url = redis_url.removesuffix("/0") + "/9"
    raw_of(url).client.flushdb()
    return url


class Drifts:
    """Publishes version after version; version n is the module after n - 1 steps."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.module = fresh()
        self.publisher = Publisher(store, MODEL, example_inputs=BATCH)

    def publish(self, count: int = 1) -> int:
        for _ in range(count):
            version = self.publisher.publish(self.module, step=int(self.module.steps))
            drift(self.module)
        return version

    def deltas(self, version: int) -> tuple[DeltaStep, ...]:
        return self.store.manifest(MODEL, version).deltas


@pytest.fixture
def drifts(store: Store) -> Iterator[Drifts]:
    """One version is there: a program is exported before another thread imports the exporter."""
    made = Drifts(store)
    made.publish()
    yield made


@pytest.fixture
def follower(store_url: str, drifts: Drifts) -> Iterator[Follower]:
    with Follower(store_url, model=MODEL) as started:
        yield started


def assert_bits(follower: Follower, version: int, module: Drifting) -> None:
    """What serves is the version, bit by bit."""
    follower.wait_serving(version)
    slot = follower.served.slots.pin(version)
    try:
        found = {name: raw(tensor) for name, tensor in slot.instance.tensors.items()}
    finally:
        follower.served.slots.release(slot)
    assert found == {name: raw(tensor) for name, tensor in module.state_dict().items()}


def reads_of(follower: Follower, monkeypatch) -> list[str]:
    """Collects the digests read, less those of probes and programs."""
    reads, read_blob = [], follower.store.read_blob
    monkeypatch.setattr(
        follower.store, "read_blob", lambda named: reads.append(named) or read_blob(named)
    )
    return reads


def weights_among(reads: list[str], store: Store, version: int) -> list[str]:
    manifest = store.manifest(MODEL, version)
    return [name for name in reads if name not in (manifest.program.digest, manifest.probe.digest)]


def test_every_version_is_served_bit_by_bit(drifts, follower):
    for step in range(20):
        version = step + 1 if step == 0 else drifts.publish()
        assert_bits(follower, version, module_of(step))
    assert [len(drifts.deltas(version)) for version in (1, 2, 17, 18, 19)] == [0, 1, 16, 0, 1]
    assert follower.served.snapshot().failures == ()


def test_the_next_version_costs_its_delta_alone(drifts, follower, monkeypatch):
    follower.wait_serving(1)
    reads = reads_of(follower, monkeypatch)
    for version in (2, 3, 4):
        reads.clear()
        follower.wait_serving(drifts.publish())
        assert weights_among(reads, drifts.store, version) == [drifts.deltas(version)[-1].digest]


def test_a_version_skipped_costs_its_delta_too(drifts, follower, monkeypatch):
    follower.wait_serving(1)
    drifts.publish()
    follower.wait_serving(2)
    reads = reads_of(follower, monkeypatch)
    # Under another channel: the follower's stays at 2 meanwhile.
    drifts.publisher.channel = "canary"
    drifts.publish(3)
    drifts.publisher.channel = "stable"
    assert_bits(follower, drifts.publish(), module_of(5))
    steps = [step.digest for step in drifts.deltas(6)]
    assert weights_among(reads, drifts.store, 6) == steps[1:][::-1]


def test_a_replica_that_joins_takes_the_anchor_and_every_delta(store_url, drifts, monkeypatch):
    version = drifts.publish(5)
    # The counter of steps is so small that each delta brings it whole.
    tensors = drifts.store.manifest(MODEL, 1).tensors
    anchor = {entry.digest for entry in tensors if entry.name != "steps"}
    joined = Follower(store_url, model=MODEL)
    reads = reads_of(joined, monkeypatch)
    with joined:
        assert_bits(joined, version, module_of(5))
    found = weights_among(reads, drifts.store, version)
    assert sorted(found) == sorted([*anchor, *(step.digest for step in drifts.deltas(version))])


@pytest.mark.parametrize("staging", [0, 5_000, 300_000])
def test_what_does_not_fit_into_staging_is_read_again(store_url, drifts, staging):
    version = drifts.publish(4)
    with Follower(store_url, model=MODEL, staging=staging) as follower:
        assert_bits(follower, version, module_of(4))
        assert_bits(follower, drifts.publish(), module_of(5))


def test_a_rollback_into_the_midst_of_a_chain(drifts, follower):
    follower.wait_serving(1)
    for _ in range(5):
        follower.wait_serving(drifts.publish())
    for version in (3, 2):
        rollback(drifts.store, MODEL, to_version=version, reason="test")
        assert_bits(follower, version, module_of(version - 1))
    rollback(drifts.store, MODEL, to_version=6, reason="and forward again")
    assert_bits(follower, 6, module_of(5))


def test_a_publisher_that_lost_its_base(store_url, drifts, follower):
    drifts.publish(2)
    assert_bits(follower, 3, module_of(2))
    other = Drifts(drifts.store)
    other.module = module_of(10)
    assert_bits(follower, other.publish(), module_of(10))
    assert_bits(follower, other.publish(), module_of(11))
    assert [len(drifts.deltas(version)) for version in (3, 4, 5)] == [2, 0, 1]


def test_deltas_that_are_off(drifts, follower):
    # torch does not export in one thread while it imports its exporter in another.
    follower.wait_serving(1)
    publisher = Publisher(drifts.store, MODEL, example_inputs=BATCH, deltas="off")
    for step in (1, 2, 3):
        version = publisher.publish(module_of(step))
        assert_bits(follower, version, module_of(step))
        assert drifts.deltas(version) == ()


def test_bytes_altered_in_a_slot_are_made_anew_from_the_store(drifts, follower):
    """A module that writes to its own weights spoils the base of the next delta."""
    follower.wait_serving(1)
    follower.wait_serving(drifts.publish())
    serving = follower.served.slots.serving.instance
    serving.tensors["first.weight"].fill_(1.0)
    assert_bits(follower, drifts.publish(), module_of(2))


def test_a_damaged_delta_is_named_and_the_next_anchor_heals(store_url, drifts, follower):
    follower.wait_serving(1)
    follower.wait_serving(drifts.publish())
    follower.watcher.stop()
    follower.watcher.join(20)
    drifts.publish()
    step = drifts.deltas(3)[-1]
    content = raw_of(store_url).read("blob", step.digest)
    raw_of(store_url).write("blob", step.digest, content[:-1] + bytes([content[-1] ^ 1]))
    with Follower(store_url, model=MODEL) as joined:
        failure = joined.wait_failed(3).failures[0]
        assert failure.reason == "DIGEST_MISMATCH"
        assert failure.message.startswith(f"delta {step.digest[:23]} on version 2: ")
        # What needs no damaged bytes loads.
        rollback(drifts.store, MODEL, to_version=2, reason="test")
        assert_bits(joined, 2, module_of(1))
        other = Drifts(drifts.store)
        other.publisher.channel = "healed"
        version = other.publish()
        rollback(drifts.store, MODEL, to_version=version, reason="the anchor")
        assert_bits(joined, version, fresh())


def republished(drifts: Drifts, blob: bytes) -> int:
    """Version 2 once more, as version 3, with another delta."""
    manifest = drifts.store.manifest(MODEL, 2)
    step = replace(manifest.deltas[0], digest=drifts.store.put_blob(blob), size_bytes=len(blob))
    again = replace(manifest, version=0, commit_id="", epoch=0, deltas=(step,))
    return publish(drifts.store, again).manifest.version


def delta_of(drifts: Drifts) -> tuple[bytes, dict[str, delta.TensorDelta]]:
    blob = drifts.store.read_blob(drifts.deltas(2)[0].digest)
    return blob, delta.decode(blob, MODEL, 1)


def failure_of(drifts: Drifts, follower: Follower, blob: bytes) -> tuple[str, str]:
    """What a replica that serves version 1 says of the delta; it goes on serving."""
    version = republished(drifts, blob)
    failure = follower.wait_failed(version).failures[0]
    assert_bits(follower, 1, fresh())
    return failure.reason, failure.message


@pytest.fixture
def at_first(store_url: str, drifts: Drifts) -> Iterator[Follower]:
    """A follower of version 1, while version 2 exists and is none of its channel's."""
    drifts.publisher.channel = "canary"
    drifts.publish()
    with Follower(store_url, model=MODEL) as started:
        started.wait_serving(1)
        yield started


def test_a_delta_for_another_version_is_refused(drifts, at_first):
    _, changes = delta_of(drifts)
    blob = delta.encode(MODEL, 5, list(changes.values()))
    reason, message = failure_of(drifts, at_first, blob)
    assert reason == "DELTA_BASE_MISMATCH"
    assert "the delta applies to version 5 of model 'drifting'" in message


def test_a_delta_on_other_bytes_is_refused(drifts, at_first):
    _, changes = delta_of(drifts)
    changes["first.weight"] = replace(changes["first.weight"], base_digest=digest(b"other"))
    reason, message = failure_of(drifts, at_first, delta.encode(MODEL, 1, list(changes.values())))
    assert reason == "DELTA_BASE_MISMATCH"
    assert "do not lead from stored bytes to tensor 'first.weight'" in message


def test_a_delta_to_other_bytes_is_refused(drifts, at_first):
    _, changes = delta_of(drifts)
    changes["first.weight"] = replace(changes["first.weight"], digest=digest(b"other"))
    reason, _ = failure_of(drifts, at_first, delta.encode(MODEL, 1, list(changes.values())))
    assert reason == "DELTA_BASE_MISMATCH"


def test_a_delta_that_does_not_make_what_it_says_is_refused(drifts, at_first):
    """Its streams are another delta's: well formed, and wrong."""
    _, changes = delta_of(drifts)
    first, second = changes["first.weight"], changes["second.weight"]
    changes["first.weight"] = replace(first, segments=second.segments)
    reason, message = failure_of(drifts, at_first, delta.encode(MODEL, 1, list(changes.values())))
    assert reason == "INSTALL_MISMATCH"
    assert "'first.weight'" in message


def test_hostile_bytes_are_refused_before_a_slot_is_touched(drifts, at_first):
    blob, _ = delta_of(drifts)
    before = at_first.served.slots.snapshot()
    reason, message = failure_of(drifts, at_first, blob[:-1])
    assert reason == "DELTA_DAMAGED"
    assert message.startswith("delta blake3:")
    assert at_first.served.slots.snapshot() == before


def test_a_failed_load_leaves_a_slot_that_the_next_load_can_use(drifts, at_first):
    _, changes = delta_of(drifts)
    first, second = changes["first.weight"], changes["second.weight"]
    changes["first.weight"] = replace(first, segments=second.segments)
    failure_of(drifts, at_first, delta.encode(MODEL, 1, list(changes.values())))
    assert at_first.served.slots.idle().state is SlotState.EMPTY
    rollback(drifts.store, MODEL, to_version=2, reason="the sound one")
    assert_bits(at_first, 2, module_of(1))


@pytest.mark.system
@pytest.mark.timeout(300)
def test_a_publisher_killed_between_its_delta_and_its_manifest(store_url):
    """Version 3's delta is stored, version 3 is not; the next publisher starts anew."""
    killed = subprocess.run(
        [
            sys.executable,
            *("-m", "tests.publisher.drifting"),
            *(store_url, "3", "publish.after_blobs=kill@3"),
        ],
        cwd=ROOT,
        check=False,
        timeout=200,
    )
    assert killed.returncode == -signal.SIGKILL
    with open_store(store_url) as store:
        assert store.versions(MODEL) == [1, 2]
        assert [len(store.manifest(MODEL, version).deltas) for version in (1, 2)] == [0, 1]
        with Follower(store_url, model=MODEL) as follower:
            assert_bits(follower, 2, module_of(2))
        drifts = Drifts(store)
        drifts.module = module_of(3)
        assert drifts.publish(2) == 4
        assert [len(store.manifest(MODEL, version).deltas) for version in (3, 4)] == [0, 1]
        with Follower(store_url, model=MODEL) as follower:
            assert_bits(follower, 4, module_of(4))


def tied_instance(manifest: Manifest) -> Instance:
    """Of a module that ties two tensors."""
    module = Tied()
    made = Instance(
        module,
        program=manifest.program,
        signature=manifest.signature,
        device=torch.device("cpu"),
        engine=Eager(module),
    )
    made.materialize()
    assert made.tensors["second.weight"].data_ptr() == made.tensors["first.weight"].data_ptr()
    return made


def test_tensors_that_share_memory_move_once(store):
    module = Tied()
    publisher = Publisher(store, MODEL, example_inputs=BATCH)
    target = None
    for _ in range(3):
        manifest = store.manifest(MODEL, publisher.publish(module))
        if target is None:
            target = tied_instance(manifest)
        tensors = target.tensors
        fill = Fill(store, manifest, (target,), lambda: None)
        fill.fetch(2**20)
        fill.install(target)
        # Before `verify`, which would mend it.
        for name, value in module.state_dict().items():
            assert raw(tensors[name]) == raw(value), name
        fill.verify(target)
        drift(module)
    assert len(manifest.deltas) == 2


def apart(store: Store) -> Manifest:
    """Of a version with different contents for the two tensors that `Tied` ties."""
    module = Tied()
    module.second.weight = torch.nn.Parameter(module.second.weight + 1)
    return store.manifest(MODEL, Publisher(store, MODEL, example_inputs=BATCH).publish(module))


def test_different_contents_of_tied_tensors_are_refused_before_a_slot_is_touched(store):
    manifest = apart(store)
    with pytest.raises(FailedPrecondition, match=r"'first\.weight' and 'second\.weight'") as raised:
        check_table(manifest, tied_instance(manifest))
    assert raised.value.reason == "TIED_TENSORS"


def test_what_another_tensor_overwrote_is_not_believed(store):
    manifest = apart(store)
    target = tied_instance(manifest)
    fill = Fill(store, manifest, (), lambda: None)
    fill.install(target)
    with pytest.raises(DataLoss) as raised:
        fill.verify(target)
    assert raised.value.reason == "INSTALL_MISMATCH"


def test_a_blob_of_two_names_is_read_into_its_place_once(store, monkeypatch):
    monkeypatch.setattr(fill_module, "IN_PLACE_BYTES", 1)
    module = Tied()
    module.second.weight = torch.nn.Parameter(module.second.weight.clone())
    manifest = store.manifest(MODEL, Publisher(store, MODEL, example_inputs=BATCH).publish(module))
    target = Instance(
        module,
        program=manifest.program,
        signature=manifest.signature,
        device=torch.device("cpu"),
        engine=Eager(module),
    )
    target.materialize()
    kept = {name: raw(value) for name, value in target.tensors.items()}
    for tensor in target.tensors.values():
        tensor.zero_()
    read, into = [], store.read_blob_into
    monkeypatch.setattr(
        store, "read_blob_into", lambda name, *rest: read.append(name) or into(name, *rest)
    )
    fill = Fill(store, manifest, (), lambda: None)
    fill.fetch(2**20, target)
    fill.install(target)
    fill.verify(target)
    assert {name: raw(value) for name, value in target.tensors.items()} == kept
    assert len(read) == len(set(read)) < len(manifest.tensors)
    assert set(read) == fill.left


def test_memory_that_is_not_contiguous_is_changed_through_a_copy():
    wide = torch.arange(12, dtype=torch.int16).reshape(3, 4)
    turned = wide.t()
    with changing(turned) as content:
        content[:2] = b"\x07\x01"
    assert wide[0, 0] == 0x0107
    assert wide.flatten()[1:].tolist() == list(range(1, 12))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_on_a_gpu_is_changed_through_a_copy():
    there = torch.arange(12, dtype=torch.int16, device="cuda")
    with changing(there) as content:
        content[:2] = b"\x07\x01"
    assert there.tolist() == [0x0107, *range(1, 12)]


def test_deltas_come_into_slots_of_another_precision(store_url: str, drifts: Drifts) -> None:
    """The words that deltas change are not in the slots: each tensor is made beside them."""
    with Follower(store_url, model=MODEL, choice=Choice(precision=Precision("fp32"))) as follower:
        for version in (1, 2, 4):
            while drifts.store.versions(MODEL)[-1] < version:
                drifts.publish()
            follower.wait_serving(version)
            slot = follower.served.slots.pin(version)
            assert slot is not None and slot.instance is not None
            expected = module_of(version - 1).state_dict()
            for name, tensor in slot.instance.tensors.items():
                wanted = expected[name]
                assert tensor.dtype is (
                    torch.float32 if wanted.is_floating_point() else wanted.dtype
                )
                assert tensor.equal(wanted.to(tensor.dtype))
            follower.served.slots.release(slot)
    assert drifts.deltas(4)


def test_deltas_come_into_a_lone_slot_and_a_bad_version_leaves_it_whole(
    store_url: str, drifts: Drifts
) -> None:
    with Follower(store_url, model=MODEL, one_slot=True) as follower:
        assert_bits(follower, 1, module_of(0))
        drifts.publish(2)
        assert_bits(follower, 3, module_of(2))
        made = drifts.store.manifest(MODEL, 3)
        broken = replace(made, version=0, commit_id="", probe=None, tensors=made.tensors[:-1])
        publish(drifts.store, broken)
        follower.wait(lambda seen: seen.failures and seen.failures[0].version == 4)
        assert_bits(follower, 3, module_of(2))
