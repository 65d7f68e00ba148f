"""When a publisher sends deltas, when an anchor, and that both are the module bit by bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from chassis.errors import InvalidArgument
from headrace import Publisher, lineage
from model_store import open_store
from model_store.chain import Chain
from model_store.checking import Check, Kind
from model_store.records import Manifest
from tests.model_store.collecting import collected
from tests.model_store.raw import raw_of
from tests.publisher.drifting import BATCH, MODEL, Drifting, Tied, drift, fresh, raw, restored
from tests.publisher.stores import CountingStore, FlakyStore


def published(publisher: Publisher, module: nn.Module) -> Manifest:
    """Publishes, and sees that the store then holds the module's bits."""
    manifest = publisher.store.manifest(publisher.name, publisher.publish(module))
    assert restored(publisher.store, manifest) == {
        name: raw(tensor) for name, tensor in module.state_dict().items()
    }
    return manifest


def drifted(publisher: Publisher, module: Drifting) -> Manifest:
    drift(module)
    return published(publisher, module)


def lengths(publisher: Publisher, module: Drifting, count: int) -> list[int]:
    """The number of deltas of `count` versions."""
    return [len(drifted(publisher, module).deltas) for _ in range(count)]


def test_the_second_version_is_a_delta(any_store):
    module, publisher = fresh(), Publisher(any_store, MODEL, example_inputs=BATCH)
    anchor = published(publisher, module)
    assert anchor.deltas == () and not any(entry.base_digest for entry in anchor.tensors)
    manifest = drifted(publisher, module)
    (step,) = manifest.deltas
    assert step.base_version == 1
    assert step.size_bytes * 10 < sum(entry.size_bytes for entry in manifest.tensors)
    assert {entry.name: entry.base_digest for entry in manifest.tensors} == {
        entry.name: entry.digest for entry in anchor.tensors
    }


def test_only_the_delta_is_sent(store_name):
    store = CountingStore(store_name)
    module, publisher = fresh(), Publisher(store, MODEL, example_inputs=BATCH)
    published(publisher, module)
    store.put_sizes.clear()
    manifest = drifted(publisher, module)
    assert sorted(store.put_sizes) == sorted(
        [manifest.deltas[0].size_bytes, manifest.probe.size_bytes]
    )


def test_a_chain_ends_in_an_anchor_after_its_most_steps(store):
    publisher = Publisher(store, MODEL, example_inputs=BATCH)
    most = lineage.MOST_DELTAS
    assert most == 16
    found = lengths(publisher, fresh(), 2 * most + 3)
    assert found == [*range(most + 1), *range(most + 1), 0]


def test_a_chain_ends_in_an_anchor_at_its_most_bytes(store, monkeypatch):
    module, publisher = fresh(), Publisher(store, MODEL, example_inputs=BATCH)
    drifted(publisher, module)
    manifest = drifted(publisher, module)
    step_bytes = manifest.deltas[0].size_bytes
    whole = sum(entry.size_bytes for entry in manifest.tensors)
    monkeypatch.setattr(lineage, "MOST_DELTA_BYTES", 2.5 * step_bytes / whole)
    assert lengths(publisher, module, 5) == [2, 0, 1, 2, 0]


def test_off_stores_every_version_and_keeps_nothing(store):
    module = fresh()
    publisher = Publisher(store, MODEL, example_inputs=BATCH, deltas="off")
    assert lengths(publisher, module, 3) == [0, 0, 0]
    assert publisher._lineage is None


def test_another_word_is_refused(store):
    with pytest.raises(InvalidArgument, match="deltas is 'on': expected 'auto' or 'off'"):
        Publisher(store, MODEL, example_inputs=BATCH, deltas="on")


def test_a_new_publisher_begins_with_an_anchor(store):
    module = fresh()
    first = Publisher(store, MODEL, example_inputs=BATCH)
    assert lengths(first, module, 2) == [0, 1]
    second = Publisher(store, MODEL, example_inputs=BATCH, parent=first.last_version)
    assert lengths(second, module, 2) == [0, 1]


def test_a_new_epoch_begins_with_an_anchor(store):
    module, publisher = fresh(), Publisher(store, MODEL, example_inputs=BATCH)
    assert lengths(publisher, module, 2) == [0, 1]
    publisher.epoch = store.acquire_epoch(MODEL, "the run, resumed")
    assert lengths(publisher, module, 2) == [0, 1]


def test_a_store_that_lost_the_base_gets_an_anchor(tmp_path):
    url = f"file://{tmp_path}/store"
    with open_store(url) as store:
        module, publisher = fresh(), Publisher(store, MODEL, example_inputs=BATCH)
        anchor = drifted(publisher, module)
        second = drifted(publisher, module)
        raw_of(url).path("blob", second.deltas[0].digest).unlink()
        assert len(drifted(publisher, module).deltas) == 0
        drifted(publisher, module)
        raw_of(url).path("blob", anchor.tensors[0].digest).unlink()
        # The newest anchor is another one: this one is missed by nobody who publishes.
        assert len(drifted(publisher, module).deltas) == 2


def test_another_publisher_between_two_versions_changes_nothing(store):
    module = fresh()
    publisher = Publisher(store, MODEL, example_inputs=BATCH)
    drifted(publisher, module)
    other = Publisher(store, MODEL, example_inputs=BATCH, epoch=0)
    published(other, fresh())
    manifest = drifted(publisher, module)
    assert (manifest.version, manifest.deltas[0].base_version) == (3, 1)


def test_a_publication_that_failed_is_no_base(store_name):
    store = FlakyStore(store_name)
    module, publisher = fresh(), Publisher(store, MODEL, example_inputs=BATCH)
    drifted(publisher, module)
    drift(module)
    store.fails["missing_blobs"] = 100
    with pytest.raises(Exception, match="missing_blobs found nobody"):
        publisher.publish(module)
    store.fails.clear()
    manifest = drifted(publisher, module)
    assert [step.base_version for step in manifest.deltas] == [1]


def test_masters_that_change_everywhere_are_stored_in_full(store):
    torch.manual_seed(1)
    module = nn.Linear(256, 256)
    publisher = Publisher(store, "m", example_inputs=torch.ones(2, 256))
    published(publisher, module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 1e-2)
    assert published(publisher, module).deltas == ()


def test_a_tensor_that_changes_everywhere_is_stored_in_full_beside_deltas(store):
    module, publisher = fresh(), Publisher(store, MODEL, example_inputs=BATCH)
    published(publisher, module)
    for index in range(1, 4):
        with torch.no_grad():
            module.second.weight.normal_()
        manifest = drifted(publisher, module)
        full = [entry.name for entry in manifest.tensors if not entry.base_digest]
        assert full == ["second.weight"]
        assert len(manifest.deltas) == index
    # Then it drifts again, from where it is stored last.
    manifest = drifted(publisher, module)
    assert all(entry.base_digest for entry in manifest.tensors)


def test_weights_that_return_to_the_anchor_are_the_anchor(store):
    module, publisher = fresh(), Publisher(store, MODEL, example_inputs=BATCH)
    anchor = published(publisher, module)
    drifted(publisher, module)
    again = published(publisher, fresh())
    assert (again.tensors, again.deltas) == (anchor.tensors, ())
    assert lengths(publisher, module, 2) == [1, 2]


def test_unchanged_weights_add_no_step(store):
    module, publisher = fresh(), Publisher(store, MODEL, example_inputs=BATCH)
    published(publisher, module)
    manifest = drifted(publisher, module)
    again = published(publisher, module)
    assert (again.tensors, again.deltas) == (manifest.tensors, manifest.deltas)
    assert [step.base_version for step in drifted(publisher, module).deltas] == [1, 3]


def test_tied_tensors_travel_once(store):
    module = Tied()
    publisher = Publisher(store, MODEL, example_inputs=BATCH)
    published(publisher, module)
    apart, untied = fresh(), Publisher(store, "untied", example_inputs=BATCH)
    published(untied, apart)
    tied_bytes = drifted(publisher, module).deltas[0].size_bytes
    assert tied_bytes < 0.6 * drifted(untied, apart).deltas[0].size_bytes
    drifted(publisher, module)


def test_a_reader_without_slots_makes_every_tensor(store):
    module, publisher = fresh(), Publisher(store, MODEL, example_inputs=BATCH)
    for _ in range(4):
        manifest = drifted(publisher, module)
        chain = Chain(manifest, store.read_blob)
        made = {entry.name: bytes(chain.content(entry)) for entry in manifest.tensors}
        assert made == restored(store, manifest)
    assert len(manifest.deltas) == 3


def test_a_store_of_deltas_is_whole_for_a_check_and_after_a_collection(any_store):
    """Bases and chains belong to versions: they are neither missing nor nobody's."""
    module, publisher = fresh(), Publisher(any_store, MODEL, example_inputs=BATCH)
    for _ in range(4):
        drifted(publisher, module)
    assert publisher.store.manifest(MODEL, 4).deltas
    for sizes_only in (False, True):
        report = Check(any_store, MODEL, sizes_only).run()
        assert (report.findings, report.orphans) == ((), ())
    collected(any_store, keep=1)
    manifest = any_store.manifest(MODEL, 4)
    assert Check(any_store).run().findings == ()
    assert restored(any_store, manifest) == {
        name: raw(tensor) for name, tensor in module.state_dict().items()
    }
    (lost, *_) = manifest.deltas
    assert any_store.delete_blob(lost.digest, unused_since_ms=2**50)
    findings = Check(any_store).run().findings
    assert [finding.kind for finding in findings] == [Kind.MISSING_BLOB]
    assert lost.digest in findings[0].message
