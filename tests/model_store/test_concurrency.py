"""Several writers, in threads and in processes, and readers beside them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from chassis.errors import Aborted, FailedPrecondition
from model_store import Store
from model_store.publication import publish
from tests.model_store.conftest import Opener
from tests.model_store.processes import WriterProcess
from tests.model_store.samples import MODEL, assert_whole, made, stored, weights
from tests.model_store.writer import Order


def all_at_once(count: int, call: Callable[[int], object]) -> list[object]:
    """What `count` threads, released together, got from `call(index)`."""
    together = threading.Barrier(count)

    def work(index: int) -> object:
        together.wait()
        return call(index)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(work, range(count)))


def test_versions_made_at_once_are_distinct_and_contiguous(store: Store, opened: Opener) -> None:
    stores = [opened() for _ in range(8)]
    manifests = [stored(store, step) for step in range(8)]

    def create_three(index: int) -> list[int]:
        return [stores[index].create_version(manifests[index]).version for _ in range(3)]

    versions = all_at_once(8, create_three)
    assert sorted(version for three in versions for version in three) == list(range(1, 25))
    assert len(assert_whole(store)) == 24


def test_one_of_sixteen_wins_a_move(store: Store, opened: Opener) -> None:
    for step in range(16):
        made(store, step)
    stores = [opened() for _ in range(16)]

    def move(index: int) -> int:
        try:
            return (
                stores[index]
                .move_channel(MODEL, "stable", index + 1, expected_revision=0, reason="race")
                .version
            )
        except Aborted:
            return 0

    winners = [version for version in all_at_once(16, move) if version]
    channel = store.channel(MODEL, "stable")
    assert channel is not None
    assert winners == [channel.version]
    assert (channel.revision, len(channel.history)) == (1, 1)


def test_a_commit_repeated_at_once_makes_one_version(store: Store, opened: Opener) -> None:
    manifest = stored(store, 1, commit_id="run:1")
    stores = [opened() for _ in range(8)]
    versions = all_at_once(8, lambda index: stores[index].create_version(manifest).version)
    assert set(versions) == {1}
    assert store.versions(MODEL) == [1]


def test_epochs_acquired_at_once_are_distinct(store: Store, opened: Opener) -> None:
    stores = [opened() for _ in range(8)]
    epochs = all_at_once(8, lambda index: stores[index].acquire_epoch(MODEL, f"owner {index}"))
    assert sorted(epochs) == list(range(1, 9))


def test_a_blob_put_at_once_is_whole(store: Store, opened: Opener) -> None:
    stores = [opened() for _ in range(4)]
    content = b"large" * 2_000_000
    names = all_at_once(4, lambda index: stores[index].put_blob(content))
    assert len(set(names)) == 1
    assert store.read_blob(names[0]) == content


def test_publishers_at_once_leave_the_channel_at_the_newest(store: Store, opened: Opener) -> None:
    stores = [opened() for _ in range(6)]
    manifests = [stored(store, step) for step in range(6)]
    publications = all_at_once(6, lambda index: publish(stores[index], manifests[index]))
    assert sorted(one.manifest.version for one in publications) == list(range(1, 7))
    channel = store.channel(MODEL, "stable")
    assert channel is not None
    assert channel.version == 6
    moves = [past.version for past in channel.history]
    assert moves == sorted(moves)


def test_after_an_epoch_is_acquired_no_older_writer_gets_in(store: Store, opened: Opener) -> None:
    old = store.acquire_epoch(MODEL, "old")
    manifest = stored(store, 1, epoch=old)
    stale, give_up = opened(), threading.Event()

    def publish_until_fenced() -> str:
        while not give_up.is_set():
            try:
                stale.create_version(manifest)
            except FailedPrecondition as error:
                return error.reason
        return "never fenced"

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(publish_until_fenced)
        try:
            while len(store.versions(MODEL)) < 3:
                store.wait_for_change(MODEL, store.revision(MODEL), 0.05)
            new = store.acquire_epoch(MODEL, "new")
            versions = store.versions(MODEL)
            made(store, 2, epoch=new)
            assert writing.result(30) == "STALE_EPOCH"
        finally:
            give_up.set()
    assert store.versions(MODEL) == [*versions, versions[-1] + 1]
    assert store.manifest(MODEL, versions[-1] + 1).epoch == new


def test_readers_never_see_half_a_version(store: Store, opened: Opener) -> None:
    done = threading.Event()

    def read_until_done(reader: Store) -> int:
        seen = 0
        while not done.is_set():
            channel = reader.channel(MODEL, "stable")
            if channel is None:
                continue
            assert channel.version >= seen
            seen = channel.version
            manifest = reader.manifest(MODEL, seen)
            assert reader.read_blob(manifest.tensors[0].digest) == weights(manifest.step)
            assert reader.versions(MODEL)[-1] >= seen
        return seen

    with ThreadPoolExecutor(2) as threads:
        reading = [threads.submit(read_until_done, opened()) for _ in range(2)]
        try:
            for step in range(12):
                publish(store, stored(store, step))
        finally:
            done.set()
        assert all(read.result() <= 12 for read in reading)


@pytest.mark.parametrize("store_url", ["file", "redis", "s3"], indirect=True)
def test_processes_share_the_versions_between_them(store: Store, store_url: str) -> None:
    with WriterProcess() as one, WriterProcess() as other:
        one.start(Order(store_url, first=0, count=12, publish=False))
        other.start(Order(store_url, first=100, count=12, publish=False))
        assert (one.exit_code(), other.exit_code()) == (0, 0)
    steps = {store.manifest(MODEL, version).step for version in store.versions(MODEL)}
    assert steps == {*range(12), *range(100, 112)}
    assert len(assert_whole(store)) == 24
