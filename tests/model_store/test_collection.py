"""Collections of whole stores of every kind, alone and beside readers, publishers and others."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from model_store import Store, s3_store
from model_store.checking import Check
from model_store.collection import Wish
from model_store.digests import digest
from model_store.publication import publish, rollback
from model_store.records import Manifest
from model_store.s3_line import S3Line
from model_store.s3_objects import S3Objects
from tests.model_store.collecting import blobs_of, collected, collected_beside, named_by
from tests.model_store.conftest import Opener, reason
from tests.model_store.raw import RawFiles, RawObjects, raw_of
from tests.model_store.samples import MODEL, assert_readable, made, stored, unstored, weights
from tests.model_store.test_damage import flipped, wherever_it_lasts


@pytest.fixture(autouse=True)
def marked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every use of a blob in S3 is marked, as if all blobs had been put long ago."""
    monkeypatch.setattr(s3_store, "MARK_AFTER_S", -3600)


def test_old_versions_go_and_then_their_blobs(store: Store, opened: Opener) -> None:
    for step in range(12):
        publish(store, stored(store, step))
    store.put_blob(b"never named")
    done = collected(opened(), keep=3)
    assert [(one.model, one.removed) for one in done.models] == [(MODEL, tuple(range(1, 10)))]
    assert (done.deleted_blobs, done.deleted_bytes) == (10, 9 * 16 + 11)
    assert (done.named_blobs, done.spared_blobs, done.problems) == (5, 0, ())
    assert assert_readable(store) == [10, 11, 12]
    assert blobs_of(store) == named_by(store)
    assert rollback(store, MODEL, reason="bad").version == 11


def test_what_versions_share_stays_as_long_as_one_needs_it(store: Store) -> None:
    for step in (7, 8, 7):
        made(store, step)
    made(store, 9, model="other")
    collected(store, keep=1)
    assert (store.versions(MODEL), store.versions("other")) == ([3], [1])
    assert store.missing_blobs([digest(weights(step)) for step in (7, 8, 9)]) == {
        digest(weights(8))
    }


def test_a_collection_twice_does_nothing_more(store: Store) -> None:
    for step in range(5):
        made(store, step)
    collected(store, keep=2)
    again = collected(store, keep=2)
    assert [one.removed for one in again.models] == [()]
    assert (again.deleted_blobs, store.versions(MODEL)) == (0, [4, 5])


def test_a_dry_run_says_what_a_run_does(store: Store) -> None:
    for step in range(6):
        publish(store, stored(store, step))
    store.lease(MODEL, 2, "host:1", 60)
    before = blobs_of(store)
    dry = collected(store, keep=1, dry_run=True)
    assert (store.versions(MODEL), blobs_of(store)) == (list(range(1, 7)), before)
    assert collected(store, keep=1) == dry
    assert dry.deleted_blobs == 3
    assert store.versions(MODEL) == [2, 5, 6]


def test_within_the_grace_nothing_goes(store: Store) -> None:
    for step in range(4):
        made(store, step)
    store.put_blob(b"for a version to come")
    before = blobs_of(store)
    done = collected_beside(store, keep=0, grace_ms=600_000)
    assert (done.models[0].removed, done.deleted_blobs, done.spared_blobs) == ((), 0, 1)
    assert set(done.models[0].kept.values()) == {"younger than the grace"}
    assert blobs_of(store) == before


@pytest.mark.parametrize(
    ("wish", "expected"),
    [({"keep": -1}, "BAD_KEEP"), ({"grace_s": 60}, "BAD_GRACE"), ({"grace_s": -1}, "BAD_GRACE")],
)
def test_a_wish_that_endangers_publishers_is_refused(wish: dict[str, int], expected: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        Wish(**wish)
    assert reason(raised) == expected


def test_an_empty_store_has_nothing_to_collect(store: Store) -> None:
    done = collected(store)
    assert (done.models, done.deleted_blobs, done.problems) == ((), 0, ())


# Damage


@wherever_it_lasts
def test_while_a_manifest_cannot_be_read_no_blob_goes(store: Store, store_url: str) -> None:
    for step in range(4):
        made(store, step)
    raw = raw_of(store_url)
    raw.write("manifest", 2, flipped(raw.read("manifest", 2)))
    before = blobs_of(store)
    done = collected(store, keep=1)
    assert done.models[0].removed == (1, 3)
    assert done.models[0].kept[2] == "its manifest cannot be read"
    assert len(done.problems) == 1
    assert "version 2" in done.problems[0]
    assert (done.deleted_blobs, blobs_of(store)) == (0, before)
    # The operator decides what the collector must not guess.
    assert store.remove_versions(MODEL, [2]).removed == (2,)
    assert collected(store, keep=1).deleted_blobs == 3
    assert blobs_of(store) == named_by(store)
    assert made(store, 9).version == 5


@wherever_it_lasts
def test_a_model_whose_channel_cannot_be_read_is_left_alone(store: Store, store_url: str) -> None:
    for step in range(4):
        publish(store, stored(store, step))
        made(store, step, model="other")
    raw = raw_of(store_url)
    raw.write("channel", "stable", flipped(raw.read("channel", "stable")))
    done = collected(store, keep=1)
    assert [(one.model, one.removed) for one in done.models] == [(MODEL, ()), ("other", (1, 2, 3))]
    assert "channel 'stable'" in done.problems[0]
    assert store.versions(MODEL) == [1, 2, 3, 4]
    assert store.missing_blobs([digest(weights(step)) for step in range(4)]) == set()


@pytest.mark.parametrize("store_url", ["file"], indirect=True)
def test_a_lease_that_cannot_be_read_keeps_the_model(store: Store, store_url: str) -> None:
    for step in range(3):
        made(store, step)
    store.lease(MODEL, 1, "host:1", 60)
    raw = raw_of(store_url)
    assert isinstance(raw, RawFiles)
    (lease,) = (raw.root / "models" / MODEL / "leases").iterdir()
    lease.write_bytes(flipped(lease.read_bytes()))
    done = collected(store, keep=1)
    assert (done.models[0].removed, store.versions(MODEL)) == ((), [1, 2, 3])
    assert "lease" in done.problems[0]


@pytest.mark.parametrize("store_url", ["s3"], indirect=True)
def test_a_line_that_cannot_be_read_keeps_every_blob(store: Store, store_url: str) -> None:
    for step in range(3):
        made(store, step)
        made(store, step + 3, model="other")
    raw = raw_of(store_url)
    assert isinstance(raw, RawObjects)
    raw.objects.put(raw.line, flipped(raw.read_object(raw.line)))
    before = blobs_of(store)
    done = collected(store, keep=1)
    assert {one.model: one.removed for one in done.models} == {MODEL: (), "other": (1, 2)}
    assert (done.deleted_blobs, blobs_of(store)) == (0, before)
    assert any("no blob was deleted" in problem for problem in done.problems)


# Beside others


def slowly_read(store: Store, version: int, between: threading.Barrier) -> list[bytes]:
    """Reads every blob of a leased version, and waits for the other party before each."""
    manifest = store.manifest(MODEL, version)
    contents = []
    for name in manifest.digests():
        between.wait(60)
        contents.append(store.read_blob(name))
    return contents


def test_a_slow_reader_reads_to_the_end(store: Store, opened: Opener) -> None:
    for step in range(6):
        publish(store, stored(store, step))
    reader, between = opened(), threading.Barrier(2)
    reader.lease(MODEL, 2, "reader", 600)
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(slowly_read, reader, 2, between)
        for _ in range(3):
            done = collected(store, keep=1)
            assert done.models[0].kept[2] == "leased by reader"
            between.wait(60)
        assert weights(1) in reading.result(60)
    reader.release(MODEL, 2, "reader")
    assert collected(store, keep=1).models[0].removed == (2,)
    assert store.versions(MODEL) == [5, 6]


def test_a_pinned_version_is_not_collected(store: Store) -> None:
    for step in range(5):
        publish(store, stored(store, step))
    store.lease(MODEL, 1, "replica", 600)
    collected(store, keep=1)
    assert assert_readable(store) == [1, 4, 5]


def test_two_collectors_at_once_agree(store: Store, opened: Opener) -> None:
    for step in range(30):
        publish(store, stored(store, step))
    together = threading.Barrier(2)

    def collect(other: Store) -> tuple[int, ...]:
        together.wait()
        return collected(other, keep=3).models[0].removed

    with ThreadPoolExecutor(2) as threads:
        removed = list(threads.map(collect, [opened(), opened()]))
    assert sorted({*removed[0], *removed[1]}) == list(range(1, 28))
    assert not {*removed[0]} & {*removed[1]}
    assert assert_readable(store) == [28, 29, 30]
    assert blobs_of(store) == named_by(store)


def put_and_publish(store: Store, step: int) -> Manifest:
    """As the SDK's Publisher does: what is missing is put, and put again where it went."""
    for _ in range(20):
        if store.missing_blobs(unstored(step).digests()):
            stored(store, step)
        try:
            return publish(store, unstored(step)).manifest
        except FailedPrecondition as error:
            assert error.reason == "MISSING_BLOBS"
    raise AssertionError("its blobs went again and again")


def test_publishers_beside_a_collector_lose_nothing(
    store: Store, opened: Opener, store_url: str
) -> None:
    """Few different weights, so that blobs that nobody named for a while are found again."""
    count, grace_ms = {"s3": (100, 1500), "memory": (300, 2)}.get(
        store_url.partition(":")[0], (300, 50)
    )
    done, round_over = threading.Event(), threading.Event()
    deleted: list[int] = []

    def collect(collector: Store) -> None:
        while not done.is_set():
            deleted.append(collected_beside(collector, keep=2, grace_ms=grace_ms).deleted_blobs)
            round_over.set()

    with ThreadPoolExecutor(1) as threads:
        collecting = threads.submit(collect, opened())
        try:
            number = 0
            while number < count or not sum(deleted):
                number += 1
                if number % 25 == 0:
                    # A publisher that never pauses would starve the collector of this process.
                    round_over.clear()
                    assert round_over.wait(60)
                # A few in a row of each, then long none.
                manifest = put_and_publish(store, number // 25 % 3)
                newest = store.manifest(MODEL, manifest.version)
                assert store.read_blob(newest.tensors[0].digest) == weights(manifest.step)
        finally:
            done.set()
        collecting.result(120)
    versions = assert_readable(store)
    assert versions[-1] == number
    assert len(versions) < number
    assert Check(store).run().findings == ()


@pytest.mark.parametrize("store_url", ["s3"], indirect=True)
def test_a_blob_used_between_look_and_delete_is_put_back(
    store: Store, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, name = stored(store, 1), digest(weights(1))
    saw_ms = max(blob.use_time_ms for blob in store.blobs()) + 1
    # S3 tells times in seconds.
    threading.Event().wait(1.1)
    delete, made_ones = S3Objects.delete, []

    def using(self: S3Objects, path: str) -> None:
        if not made_ones:
            made_ones.append(store.create_version(manifest))
        delete(self, path)

    monkeypatch.setattr(S3Objects, "delete", using)
    assert not opened().delete_blob(name, unused_since_ms=saw_ms)
    assert [one.version for one in made_ones] == [1]
    assert store.read_blob(name) == weights(1)


@pytest.mark.parametrize("store_url", ["s3"], indirect=True)
def test_a_publisher_that_stood_still_for_a_whole_collection_looks_again(
    store: Store, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store, 1)
    manifest, collector = stored(store, 2), opened()
    commit, stood_still = S3Line.commit, []

    def late(self: S3Line) -> bool:
        if not stood_still:
            stood_still.append(self)
            # Nothing to remove, but a blob to delete: hours later, nobody has named it.
            assert collected(collector, keep=1).deleted_blobs == 1
        return commit(self)

    monkeypatch.setattr(S3Line, "commit", late)
    with pytest.raises(FailedPrecondition) as raised:
        store.create_version(manifest)
    assert reason(raised) == "MISSING_BLOBS"
    assert store.versions(MODEL) == [1]


def test_a_reader_without_a_lease_is_told(store: Store) -> None:
    for step in range(4):
        made(store, step)
    manifest = store.manifest(MODEL, 1)
    collected(store, keep=1)
    with pytest.raises(NotFound) as raised:
        store.read_blob(manifest.tensors[0].digest)
    assert reason(raised) == "BLOB_NOT_FOUND"
    with pytest.raises(NotFound, match="was removed or lost"):
        store.lease(MODEL, 1, "late", 60)
