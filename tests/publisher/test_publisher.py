"""What a publication holds, what it leaves alone, what it refuses and what it repeats."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import nn

from chassis.errors import FailedPrecondition, InvalidArgument, Unavailable
from headrace import Publisher
from headrace.program import TORCH_TYPES, load_program
from model_store.publication import rollback
from model_store.records import Manifest
from model_store.signing import load_trusted_keys, new_key, verify
from tests.publisher.modules import Counting, Featured, Plain
from tests.publisher.stores import CollectedStore, CountingStore, FlakyStore, newest

BATCH = torch.linspace(-1, 1, 24).reshape(3, 8)


def restored(store, manifest: Manifest) -> nn.Module:
    """A module made from what the store holds, as a replica makes it."""
    state = {}
    for entry in manifest.tensors:
        content = bytearray(store.read_blob(entry.digest))
        flat = torch.frombuffer(content, dtype=TORCH_TYPES[entry.datatype])
        state[entry.name] = flat.reshape(entry.shape)
    program = load_program(store.read_blob(manifest.program.digest))
    program.load_state_dict(state, assign=True)
    return program


def test_the_three_line_form(tmp_path):
    module = Featured()
    publisher = Publisher(f"file://{tmp_path}/store", model="clicks", example_inputs=BATCH)
    first = publisher.publish(module, step=10, metrics={"auc": 0.7})
    second = publisher.publish(module, step=20, metrics={"auc": np.float32(0.8)})
    assert (first, second) == (1, 2)
    manifest = publisher.store.manifest("clicks", 2)
    assert (manifest.step, manifest.parent, manifest.epoch) == (20, 1, 1)
    assert manifest.metrics == pytest.approx({"auc": 0.8})
    assert publisher.store.channel("clicks", "stable").version == 2
    assert manifest.producer and manifest.create_time_ms
    publisher.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_program_and_weights_reproduce_the_module(any_store, dtype):
    module = Featured().to(dtype)
    batch = BATCH.to(dtype)
    module(batch)
    Publisher(any_store, "m", example_inputs=batch).publish(module)
    module.eval()
    for rows in (1, 2, 3):
        torch.testing.assert_close(
            restored(any_store, newest(any_store, "m"))(batch[:rows]), module(batch[:rows])
        )


def test_the_probe_holds_eval_mode_outputs_of_these_weights(store):
    module = Featured()
    publisher = Publisher(store, "m", example_inputs=BATCH)
    publisher.publish(module)
    with torch.no_grad():
        module.first.bias.add_(1)
    publisher.publish(module)
    for version in (1, 2):
        manifest = store.manifest("m", version)
        golden = load(store.read_blob(manifest.probe.digest))
        again = restored(store, manifest)(golden["input.x"])
        torch.testing.assert_close(again, golden["output.output"])
    assert (manifest.probe.absolute_tolerance, manifest.probe.relative_tolerance) == (1e-4, 1e-3)


def test_half_precision_widens_the_probe_s_tolerance(store):
    publisher = Publisher(store, "m", example_inputs=BATCH.bfloat16())
    publisher.publish(nn.Linear(8, 8).bfloat16())
    assert newest(store, "m").probe.relative_tolerance > 1e-3


def test_tensors_of_every_shape_are_listed(store):
    Publisher(store, "m", example_inputs=BATCH).publish(Featured())
    table = {entry.name: entry for entry in newest(store, "m").tensors}
    assert table["norm.num_batches_tracked"].shape == ()
    assert table["norm.num_batches_tracked"].datatype == "INT64"
    assert table["first.weight"].digest == table["second.weight"].digest
    assert "ramp" not in table


def test_unchanged_tensors_are_not_sent_again(store_name):
    store = CountingStore(store_name)
    module = Featured().eval()
    publisher = Publisher(store, "m", example_inputs=BATCH)
    publisher.publish(module)
    # Program, probe, and the distinct tensors: two of all-zeros biases and means, and so on.
    distinct = {entry.digest for entry in newest(store, "m").tensors}
    assert len(store.put_sizes) == len(distinct) + 2
    store.put_sizes.clear()
    with torch.no_grad():
        module.first.bias.add_(1)
    publisher.publish(module)
    probe = newest(store, "m").probe
    assert sorted(store.put_sizes) == sorted([8 * 4, probe.size_bytes])
    store.put_sizes.clear()
    publisher.publish(module)
    assert store.put_sizes == []
    assert store.calls["missing_blobs"] >= 3


@pytest.mark.parametrize("module", [Featured(), Counting()], ids=["featured", "counting"])
def test_the_module_and_the_random_generators_are_undisturbed(store, module):
    module.train()
    module.first = getattr(module, "first", nn.Identity()).eval()
    module(BATCH).sum().backward()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    gradients = {name: value.grad.clone() for name, value in module.named_parameters()}
    modes = [part.training for part in module.modules()]
    buffers = [id(buffer) for buffer in module.buffers()]
    drawn = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    Publisher(store, "m", example_inputs=BATCH).publish(module)
    assert torch.equal(drawn[0], torch.get_rng_state())
    assert drawn[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert modes == [part.training for part in module.modules()]
    assert buffers == [id(buffer) for buffer in module.buffers()]
    for name, value in module.state_dict().items():
        assert torch.equal(before[name], value), name
    for name, value in module.named_parameters():
        assert value.requires_grad and torch.equal(gradients[name], value.grad), name


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_before_anything_is_written(store, value):
    module = Featured()
    with torch.no_grad():
        module.norm.bias[3] = value
    with pytest.raises(InvalidArgument, match=r"'norm\.bias'") as error:
        Publisher(store, "m", example_inputs=BATCH).publish(module)
    assert error.value.reason == "NON_FINITE"
    assert (store.models(), store.epoch("m")) == ([], 0)


def test_an_output_that_is_nan_is_refused(store):
    class Root(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sqrt(super().forward(x) - 1e6)

    with pytest.raises(InvalidArgument, match="output 'output' is NaN"):
        Publisher(store, "m", example_inputs=BATCH).publish(Root(8, 8))


def test_a_tensor_without_an_oip_datatype_is_named(store):
    module = nn.Linear(8, 8)
    module.register_buffer("phase", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(InvalidArgument, match="'phase' has dtype torch.complex64"):
        Publisher(store, "m", example_inputs=BATCH).publish(module)


def test_ddp_and_compiled_modules_are_looked_through(store, tmp_path):
    module = nn.Linear(8, 8)
    torch.distributed.init_process_group(
        "gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/rendezvous"
    )
    try:
        publisher = Publisher(store, "m", example_inputs=BATCH)
        publisher.publish(nn.parallel.DistributedDataParallel(module))
    finally:
        torch.distributed.destroy_process_group()
    publisher.publish(torch.compile(module, backend="eager"))
    assert [entry.name for entry in newest(store, "m").tensors] == ["bias", "weight"]


def test_an_older_publisher_is_fenced(any_store):
    module = nn.Linear(8, 8)
    older = Publisher(any_store, "m", example_inputs=BATCH)
    older.publish(module)
    newer = Publisher(any_store, "m", example_inputs=BATCH)
    assert newer.publish(module) == 2
    with pytest.raises(FailedPrecondition) as error:
        older.publish(module)
    assert error.value.reason == "STALE_EPOCH"
    assert any_store.versions("m") == [1, 2]
    assert Publisher(any_store, "m", epoch=0).publish(module) == 3
    assert newer.publish(module) == 4


def test_a_channel_that_is_held_stays(any_store):
    module = nn.Linear(8, 8)
    publisher = Publisher(any_store, "m", example_inputs=BATCH, channel="canary")
    publisher.publish(module)
    publisher.publish(module)
    rollback(any_store, "m", channel="canary", reason="a test")
    assert publisher.publish(module) == 3
    assert any_store.channel("m", "canary").version == 1
    assert any_store.channel("m", "stable") is None


@pytest.mark.parametrize("method", ["put_blob", "missing_blobs", "acquire_epoch", "create_version"])
def test_a_store_that_was_away_gets_the_same_commit_again(store_name, method):
    store = FlakyStore(store_name, **{method: 2})
    publisher = Publisher(store, "m", example_inputs=BATCH)
    assert publisher.publish(nn.Linear(8, 8)) == 1
    assert (store.versions("m"), store.channel("m", "stable").version) == ([1], 1)


def test_a_store_that_stays_away_is_an_error_and_the_next_call_goes_on(store_name):
    # More often than all blobs, put side by side, are tried.
    store = FlakyStore(store_name, put_blob=100)
    publisher = Publisher(store, "m", example_inputs=BATCH)
    module = nn.Linear(8, 8)
    with pytest.raises(Unavailable):
        publisher.publish(module)
    assert store.versions("m") == []
    store.fails.clear()
    assert publisher.publish(module) == 1


def test_a_blob_that_was_collected_is_sent_again(store_name):
    store = CountingStore(store_name)
    publisher = Publisher(store, "m", example_inputs=BATCH)
    publisher.publish(nn.Linear(8, 8))
    store._memory.blobs.clear()
    assert publisher.publish(nn.Linear(8, 8)) == 2


@pytest.mark.parametrize("damaged", [bytearray.clear, lambda content: content.reverse()])
def test_a_blob_that_was_damaged_is_repaired_by_the_next_publisher(tmp_path, damaged):
    module = Featured()
    with Publisher(f"file://{tmp_path}/store", "m", example_inputs=BATCH) as first:
        first.publish(module)
        blobs = sorted((tmp_path / "store" / "blobs").rglob("*/*"))
        largest = max(blobs, key=lambda path: path.stat().st_size)
        content = bytearray(largest.read_bytes())
        damaged(content)
        largest.write_bytes(content)
        with Publisher(first.store, "m", example_inputs=BATCH) as second:
            assert second.publish(module) == 2
        for digest in newest(first.store, "m").digests():
            first.store.read_blob(digest)


@pytest.mark.parametrize("times", [1, 2])
def test_blobs_that_go_before_the_version_is_made_are_sent_again(store_name, times):
    store = CollectedStore(store_name, times)
    publisher = Publisher(store, "m", example_inputs=BATCH)
    module = nn.Linear(8, 8)
    assert publisher.publish(module) == 1
    manifest = store.manifest("m", 1)
    assert store.missing_blobs(manifest.digests()) == set()
    assert restored(store, manifest)(BATCH).equal(module(BATCH))
    assert store.collections == times


def test_a_publisher_whose_blobs_always_go_says_so(store_name):
    publisher = Publisher(CollectedStore(store_name, 10), "m", example_inputs=BATCH)
    with pytest.raises(FailedPrecondition) as raised:
        publisher.publish(nn.Linear(8, 8))
    assert raised.value.reason == "MISSING_BLOBS"


def test_a_publisher_closes_only_the_store_it_opened(store, store_name):
    with Publisher(f"memory://{store_name}-own", Plain()) as own:
        assert own.publish(Featured()) == 1
    with Publisher(store, Plain()) as lent:
        lent.publish(Featured())
    assert store.versions("plain") == [1]
    assert repr(lent).endswith("'plain', last_version=1)")


def test_every_version_is_signed_with_its_epoch_and_parent(any_store, tmp_path):
    made = new_key(tmp_path / "key")
    keys = load_trusted_keys([made.public])
    publisher = Publisher(any_store, "m", example_inputs=BATCH, signing_key=made.private)
    for step in (1, 2):
        publisher.publish(Featured(), step=step, metrics={"auc": np.float32(0.1)})
        manifest = newest(any_store, "m")
        verify(manifest, keys)
        assert (manifest.parent, manifest.epoch) == (step - 1, 1)
    with pytest.raises(FailedPrecondition):
        verify(replace(manifest, parent=0), keys)


def test_a_commit_repeated_keeps_its_signature(tmp_path):
    made = new_key(tmp_path / "key")
    store = FlakyStore("signed-flaky", create_version=2, put_blob=1)
    Publisher(store, "m", example_inputs=BATCH, signing_key=made.private).publish(Featured())
    assert store.versions("m") == [1]
    verify(newest(store, "m"), load_trusted_keys([made.public]))


def test_nothing_of_the_store_is_signed(store, tmp_path):
    Publisher(store, "m", example_inputs=BATCH).publish(Featured())
    Publisher(store, "m").publish(Featured())
    made = new_key(tmp_path / "key")
    with pytest.raises(InvalidArgument, match="does not come from the store; pass example_inputs"):
        Publisher(store, "m", signing_key=made.private).publish(Featured())
    assert store.versions("m") == [1, 2]


def test_a_key_that_is_no_good_is_told_at_once(store, tmp_path):
    with pytest.raises(InvalidArgument, match="cannot be read"):
        Publisher(store, "m", signing_key=tmp_path / "absent")
