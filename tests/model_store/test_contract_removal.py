"""The contract of `Store`, kept by every kind of store: leases, removing versions and blobs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from chassis.clock import wall_time_ms
from chassis.errors import FailedPrecondition, InvalidArgument, NotFound
from model_store import Store, s3_store
from model_store.digests import digest
from model_store.publication import publish, rollback
from tests.model_store.conftest import Opener, reason
from tests.model_store.samples import (
    MODEL,
    assert_readable,
    made,
    move,
    stored,
    weights,
)

HOUR_MS = 3600 * 1000


@pytest.fixture(autouse=True)
def marked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every use of a blob in S3 is marked, as if all blobs had been put long ago."""
    monkeypatch.setattr(s3_store, "MARK_AFTER_S", -3600)


def later() -> int:
    """A moment after everything done so far."""
    return wall_time_ms() + HOUR_MS


def blobs_of(store: Store) -> set[str]:
    return {blob.digest for blob in store.blobs()}


# Leases


def test_a_lease_is_seen_by_everyone_and_keeps_its_version(store: Store, opened: Opener) -> None:
    for step in (1, 2):
        made(store, step)
    lease = store.lease(MODEL, 1, "host:1", 60)
    assert (lease.version, lease.holder) == (1, "host:1")
    assert abs(lease.expire_time_ms - wall_time_ms() - 60_000) < 30_000
    other = opened()
    assert other.leases(MODEL) == [lease]
    removal = other.remove_versions(MODEL, [1, 2])
    assert removal.removed == (2,)
    assert dict(removal.kept) == {1: "leased by host:1"}
    assert assert_readable(store) == [1]


def test_a_lease_is_renewed_by_repeating_it(store: Store) -> None:
    made(store, 1)
    first = store.lease(MODEL, 1, "host:1", 60)
    second = store.lease(MODEL, 1, "host:1", 600)
    assert second.expire_time_ms > first.expire_time_ms
    assert store.leases(MODEL) == [second]


def test_leases_are_sorted_by_version_and_holder(store: Store) -> None:
    for step in (1, 2):
        made(store, step)
    for version, holder in ((2, "a"), (1, "b: c"), (1, "a")):
        store.lease(MODEL, version, holder, 60)
    found = [(lease.version, lease.holder) for lease in store.leases(MODEL)]
    assert found == [(1, "a"), (1, "b: c"), (2, "a")]


def test_a_released_version_may_be_removed(store: Store, opened: Opener) -> None:
    made(store, 1)
    for holder in ("host:1", "host:2"):
        store.lease(MODEL, 1, holder, 60)
    opened().release(MODEL, 1, "host:1")
    opened().release(MODEL, 1, "host:1")
    assert [lease.holder for lease in store.leases(MODEL)] == ["host:2"]
    assert store.remove_versions(MODEL, [1]).removed == ()
    store.release(MODEL, 1, "host:2")
    assert store.leases(MODEL) == []
    assert store.remove_versions(MODEL, [1]).removed == (1,)


def test_an_expired_lease_keeps_nothing(store: Store) -> None:
    made(store, 1)
    store.lease(MODEL, 1, "host:1", 0.001)
    expired = threading.Event()
    while store.leases(MODEL):
        expired.wait(0.001)
    assert store.remove_versions(MODEL, [1]).removed == (1,)


def test_an_absent_version_cannot_be_leased(store: Store) -> None:
    made(store, 1)
    made(store, 2)
    store.remove_versions(MODEL, [1])
    for version, sentence in ((1, "was removed or lost"), (3, "has no version 3")):
        with pytest.raises(NotFound, match=sentence) as raised:
            store.lease(MODEL, version, "host:1", 60)
        assert reason(raised) == "VERSION_NOT_FOUND"
    assert store.leases(MODEL) == []


@pytest.mark.parametrize(
    ("holder", "ttl_s", "expected"),
    [("", 60, "BAD_TEXT"), ("a", 0, "BAD_TTL"), ("a", -1, "BAD_TTL"), ("a", 1e9, "BAD_TTL")],
)
def test_a_malformed_lease_is_refused(
    store: Store, holder: str, ttl_s: float, expected: str
) -> None:
    made(store, 1)
    with pytest.raises(InvalidArgument) as raised:
        store.lease(MODEL, 1, holder, ttl_s)
    assert reason(raised) == expected


# Removing versions


def test_a_removed_version_is_gone_and_its_number_taken(store: Store, opened: Opener) -> None:
    for step in (1, 2, 3):
        made(store, step)
    seen = store.revision(MODEL)
    assert store.remove_versions(MODEL, [2, 3]).removed == (2, 3)
    other = opened()
    assert other.versions(MODEL) == [1]
    assert other.revision(MODEL) == seen
    with pytest.raises(NotFound, match="version 3 of model 'clicks' was removed or lost") as raised:
        other.manifest(MODEL, 3)
    assert reason(raised) == "VERSION_NOT_FOUND"
    with pytest.raises(NotFound, match="was removed or lost"):
        move(other, 2, 0)
    assert made(other, 4).version == 4
    assert other.revision(MODEL) == seen + 1
    assert assert_readable(store) == [1, 4]


def test_versions_not_there_are_no_news(store: Store) -> None:
    made(store, 1)
    made(store, 2)
    for _ in range(2):
        store.remove_versions(MODEL, [1])
    removal = store.remove_versions(MODEL, [1, 7])
    assert (removal.removed, dict(removal.kept)) == ((), {})
    assert store.versions(MODEL) == [2]


def test_a_model_whose_versions_all_went_goes_on(store: Store) -> None:
    made(store, 1)
    store.remove_versions(MODEL, [1])
    assert (store.models(), store.versions(MODEL)) == ([], [])
    with pytest.raises(NotFound, match="none is left"):
        store.manifest(MODEL, 1)
    assert made(store, 2).version == 2
    assert store.models() == [MODEL]


def test_what_a_channel_needs_is_kept(store: Store) -> None:
    for step in (1, 2, 3, 4):
        publish(store, stored(store, step))
    store.move_channel(MODEL, "canary", 1, expected_revision=0, reason="set")
    removal = store.remove_versions(MODEL, [1, 2, 3, 4])
    assert removal.removed == (2,)
    assert dict(removal.kept) == {
        1: "channel canary points to it",
        3: "a rollback of channel stable would reach it",
        4: "channel stable points to it",
    }


def test_a_rollback_goes_to_the_latest_version_that_is_there(store: Store) -> None:
    for step in (1, 2, 3, 4):
        publish(store, stored(store, step))
    store.remove_versions(MODEL, [1, 2])
    made(store, 5)
    move(store, 5, 4)
    assert store.remove_versions(MODEL, [3, 4]).removed == (3,)
    assert rollback(store, MODEL, reason="bad").version == 4
    with pytest.raises(FailedPrecondition, match="still there") as raised:
        rollback(store, MODEL, reason="bad")
    assert reason(raised) == "NO_EARLIER_VERSION"


def test_a_commit_is_forgotten_with_its_version(store: Store, opened: Opener) -> None:
    manifest = stored(store, 1, commit_id="run:1")
    store.create_version(manifest)
    made(store, 2)
    store.remove_versions(MODEL, [1])
    assert opened().create_version(manifest).version == 3
    assert opened().create_version(manifest).version == 3


def test_removing_nothing_changes_nothing(store: Store) -> None:
    publish(store, stored(store, 1))
    before = store.channels(MODEL)
    assert store.remove_versions(MODEL, []).removed == ()
    assert store.channels(MODEL) == before
    assert assert_readable(store) == [1]


# Blobs


def test_blobs_are_listed_with_size_and_time(store: Store, opened: Opener) -> None:
    assert list(store.blobs()) == []
    names = {store.put_blob(content): len(content) for content in (b"", b"four", b"x" * 9_000_001)}
    found = {blob.digest: blob for blob in opened().blobs()}
    assert {name: blob.size_bytes for name, blob in found.items()} == names
    for blob in found.values():
        assert abs(blob.use_time_ms - wall_time_ms()) < 60_000


def test_a_blob_unused_since_then_is_deleted(store: Store, opened: Opener) -> None:
    name, other = store.put_blob(b"x" * 9_000_001), store.put_blob(b"other")
    assert not store.delete_blob(name, unused_since_ms=wall_time_ms() - HOUR_MS)
    assert store.missing_blobs([name]) == set()
    assert opened().delete_blob(name, unused_since_ms=later())
    assert not opened().delete_blob(name, unused_since_ms=later())
    assert store.missing_blobs([name, other]) == {name}
    assert blobs_of(store) == {other}
    assert store.read_blob(store.put_blob(b"x" * 9_000_001)) == b"x" * 9_000_001


def used_at(store: Store, name: str) -> int:
    return max(blob.use_time_ms for blob in store.blobs() if blob.digest == name)


def test_putting_a_blob_again_is_a_use(store: Store) -> None:
    name = store.put_blob(b"again")
    before = used_at(store, name)
    clock = threading.Event()
    while used_at(store, name) == before:
        clock.wait(0.005)
        store.put_blob(b"again")
    assert not store.delete_blob(name, unused_since_ms=before + 1)


def test_a_version_uses_its_blobs(store: Store) -> None:
    manifest = stored(store, 1)
    before = {name: used_at(store, name) for name in manifest.digests()}
    clock = threading.Event()
    while any(used_at(store, name) == time for name, time in before.items()):
        clock.wait(0.005)
        store.create_version(manifest)
    for name, time in before.items():
        assert not store.delete_blob(name, unused_since_ms=time + 1)


def test_a_blob_that_was_there_and_went_is_told_to_whoever_names_it(store: Store) -> None:
    manifest = stored(store, 1)
    assert store.missing_blobs(manifest.digests()) == set()
    store.delete_blob(digest(weights(1)), unused_since_ms=later())
    with pytest.raises(FailedPrecondition, match="1 blobs") as raised:
        store.create_version(manifest)
    assert reason(raised) == "MISSING_BLOBS"
    assert store.create_version(stored(store, 1)).version == 1


@pytest.mark.parametrize("name", ["", "blake3:../../x", "0" * 64])
def test_only_a_digest_is_deleted(store: Store, name: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        store.delete_blob(name, unused_since_ms=later())
    assert reason(raised) == "BAD_DIGEST"


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_malformed_names_are_refused(store: Store, name: str) -> None:
    for call in (
        lambda: store.lease(name, 1, "host:1", 60),
        lambda: store.release(name, 1, "host:1"),
        lambda: store.leases(name),
        lambda: store.remove_versions(name, [1]),
    ):
        with pytest.raises(InvalidArgument) as raised:
            call()
        assert reason(raised) == "BAD_NAME"


# Publishers and collectors at once


def test_a_blob_is_deleted_or_its_version_made(store: Store, opened: Opener) -> None:
    """A collector that once saw a blob unused, and a publisher that uses it at that moment."""
    collector, steps = opened(), range(24)
    manifests = [stored(store, step) for step in steps]
    saw_ms, clock = wall_time_ms() + 1, threading.Event()
    while wall_time_ms() < saw_ms + 1100:
        # S3 tells times in seconds.
        clock.wait(0.1)
    for step in steps:
        name = digest(weights(step))
        outcomes: dict[str, object] = {}

        def delete(name: str = name, outcomes: dict[str, object] = outcomes) -> None:
            outcomes["deleted"] = collector.delete_blob(name, unused_since_ms=saw_ms)

        def create(step: int = step, outcomes: dict[str, object] = outcomes) -> None:
            try:
                outcomes["made"] = store.create_version(manifests[step]).step
            except FailedPrecondition as error:
                outcomes["made"] = error.reason

        at_once(delete, create)
        if outcomes["made"] == step:
            assert not outcomes["deleted"]
            assert store.read_blob(name) == weights(step)
        else:
            assert outcomes["made"] == "MISSING_BLOBS"
            assert made(store, step).step == step


def test_a_version_is_leased_or_removed(store: Store, opened: Opener) -> None:
    collector = opened()
    for step in range(24):
        version = made(store, step % 4).version
        outcomes: dict[str, object] = {}

        def remove(version: int = version, outcomes: dict[str, object] = outcomes) -> None:
            outcomes["removed"] = collector.remove_versions(MODEL, [version]).removed

        def lease(version: int = version, outcomes: dict[str, object] = outcomes) -> None:
            try:
                store.lease(MODEL, version, "reader", 600)
                outcomes["read"] = store.manifest(MODEL, version).version
            except NotFound as error:
                outcomes["read"] = error.reason

        at_once(remove, lease)
        if outcomes["removed"]:
            assert outcomes["read"] == "VERSION_NOT_FOUND"
        else:
            assert outcomes["read"] == version


def at_once(*calls: Callable[[], None]) -> None:
    """Runs the calls in threads released together, and waits for them."""
    together = threading.Barrier(len(calls))

    def work(call: Callable[[], None]) -> None:
        together.wait()
        call()

    with ThreadPoolExecutor(len(calls)) as threads:
        for done in [threads.submit(work, call) for call in calls]:
            done.result(60)
