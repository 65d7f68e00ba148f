"""A check finds what is damaged, missing or orphaned, names whom it hurts, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from chassis.errors import NotFound
from model_store import Store
from model_store.checking import Check, Finding, Kind
from model_store.digests import digest
from model_store.faults import Fault, FaultyStore
from model_store.publication import publish
from model_store.records import TensorEntry
from tests.model_store.collecting import collected
from tests.model_store.conftest import reason
from tests.model_store.raw import RawFiles, RawObjects, raw_of
from tests.model_store.samples import MODEL, PROGRAM, made, stored, weights
from tests.model_store.test_damage import DAMAGES, flipped, wherever_it_lasts

HOUR_MS = 3600 * 1000


def findings(store: Store, *, model: str | None = None, sizes_only: bool = False) -> list[Finding]:
    return list(Check(store, model, sizes_only).run().findings)


def test_a_whole_store_has_no_findings(store: Store) -> None:
    for step in range(3):
        publish(store, stored(store, step))
    made(store, 9, model="other")
    orphan = store.put_blob(b"nobody's")
    report = Check(store).run()
    assert report.findings == ()
    assert (report.models, report.versions, report.channels, report.blobs) == (2, 4, 1, 7)
    assert report.blob_bytes == 4 * 16 + len(PROGRAM) + len(b"golden") + len(b"nobody's")
    assert [blob.digest for blob in report.orphans] == [orphan]


def test_an_empty_store_is_whole(store: Store) -> None:
    assert findings(store) == []


def test_a_store_that_was_collected_is_whole(store: Store) -> None:
    for step in range(6):
        publish(store, stored(store, step))
    collected(store, keep=2)
    report = Check(store).run()
    assert (report.findings, report.orphans, report.versions) == ((), (), 2)


def test_a_missing_blob_names_the_versions_that_suffer(store: Store) -> None:
    for step in (1, 2, 1, 1):
        made(store, step)
    name = digest(weights(1))
    assert store.delete_blob(name, unused_since_ms=2**50)
    for sizes_only in (False, True):
        (finding,) = findings(store, sizes_only=sizes_only)
        assert (finding.kind, finding.what) == (Kind.MISSING_BLOB, name)
        assert finding.suffering == ("clicks/1", "clicks/3", "clicks/4")
        assert finding.suffering_count == 3


def test_of_many_versions_that_suffer_a_few_are_named(store: Store) -> None:
    for _ in range(8):
        made(store, 1)
    store.delete_blob(digest(weights(1)), unused_since_ms=2**50)
    (finding,) = findings(store)
    assert (len(finding.suffering), finding.suffering_count) == (5, 8)


@wherever_it_lasts
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_blob_is_found(
    store: Store, store_url: str, damage: Callable[[bytes], bytes]
) -> None:
    made(store, 1)
    name, raw = digest(weights(1)), raw_of(store_url)
    raw.write("blob", name, damage(raw.read("blob", name)))
    (finding,) = findings(store)
    assert finding.kind in (Kind.DAMAGED_BLOB, Kind.WRONG_SIZE)
    assert (finding.what, finding.suffering) == (name, ("clicks/1",))


@wherever_it_lasts
def test_only_reading_finds_a_flipped_bit(store: Store, store_url: str) -> None:
    made(store, 1)
    name, raw = digest(weights(1)), raw_of(store_url)
    raw.write("blob", name, flipped(raw.read("blob", name)))
    assert findings(store, sizes_only=True) == []
    assert [finding.kind for finding in findings(store)] == [Kind.DAMAGED_BLOB]


@wherever_it_lasts
def test_a_damaged_orphan_is_found(store: Store, store_url: str) -> None:
    # A publisher that found it would build a version on it.
    name, raw = store.put_blob(b"orphan"), raw_of(store_url)
    raw.write("blob", name, flipped(b"orphan"))
    (finding,) = findings(store)
    assert (finding.kind, finding.suffering_count) == (Kind.DAMAGED_BLOB, 0)


def test_a_manifest_that_lies_about_a_size_is_found(store: Store) -> None:
    manifest = stored(store, 1)
    lie = TensorEntry("layer.bias", "FP32", (1,), digest(weights(1)), 4)
    store.create_version(replace(manifest, tensors=(lie,)))
    (finding,) = findings(store, sizes_only=True)
    assert (finding.kind, finding.suffering) == (Kind.WRONG_SIZE, ("clicks/1",))


@wherever_it_lasts
def test_damaged_records_are_found(store: Store, store_url: str) -> None:
    for step in (1, 2, 3):
        publish(store, stored(store, step))
    store.move_channel(MODEL, "canary", 1, expected_revision=0, reason="set")
    raw = raw_of(store_url)
    raw.write("manifest", 2, flipped(raw.read("manifest", 2)))
    raw.write("channel", "canary", flipped(raw.read("channel", "canary")))
    found = [(finding.kind, finding.what) for finding in findings(store)]
    assert found == [(Kind.DAMAGED_CHANNEL, MODEL), (Kind.DAMAGED_MANIFEST, "clicks/2")]


@pytest.mark.parametrize("store_url", ["file"], indirect=True)
def test_a_channel_whose_version_was_lost_is_found(store: Store, store_url: str) -> None:
    for step in (1, 2):
        publish(store, stored(store, step))
    raw = raw_of(store_url)
    assert isinstance(raw, RawFiles)
    raw.path("manifest", 2).unlink()
    (finding,) = findings(store)
    assert (finding.kind, finding.what) == (Kind.LOST_TARGET, "clicks@stable")


@pytest.mark.parametrize("store_url", ["s3"], indirect=True)
def test_a_damaged_line_is_found_and_the_others_are_checked(store: Store, store_url: str) -> None:
    made(store, 1)
    made(store, 2, model="other")
    raw = raw_of(store_url)
    assert isinstance(raw, RawObjects)
    raw.objects.put(raw.line, flipped(raw.read_object(raw.line)))
    store.delete_blob(digest(weights(2)), unused_since_ms=2**50)
    found = [(finding.kind, finding.what) for finding in findings(store)]
    assert found == [(Kind.DAMAGED_RECORDS, MODEL), (Kind.MISSING_BLOB, digest(weights(2)))]


def test_one_model_is_checked_alone(store: Store) -> None:
    made(store, 1)
    made(store, 2, model="other")
    store.delete_blob(digest(weights(2)), unused_since_ms=2**50)
    store.put_blob(b"nobody's")
    report = Check(store, MODEL).run()
    assert (report.models, report.versions, report.blobs) == (1, 1, 3)
    assert (report.findings, report.orphans) == ((), ())
    assert [finding.kind for finding in findings(store, model="other")] == [Kind.MISSING_BLOB]
    with pytest.raises(NotFound) as raised:
        findings(store, model="third")
    assert reason(raised) == "MODEL_NOT_FOUND"


def test_what_is_collected_during_the_check_is_no_damage(store: Store) -> None:
    for step in range(4):
        made(store, step)
    beside = FaultyStore(store)
    collecting = _CollectsFirst(call="blobs", error=None)
    collecting.store = store
    beside.add(collecting)
    report = Check(beside).run()
    assert (report.versions, report.findings) == (4, ())
    assert store.versions(MODEL) == [4]


class _CollectsFirst(Fault):
    """No fault: a collection that comes just before the call."""

    store: Store

    def strikes(self, call: str) -> bool:
        struck = super().strikes(call)
        if struck:
            collected(self.store, keep=1)
        return struck
