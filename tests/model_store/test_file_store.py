"""What only files have: durability, modes, locks, leftovers, hints."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from chassis import failpoints
from chassis.errors import (
    DataLoss,
    FailedPrecondition,
    HeadraceError,
    Internal,
    ResourceExhausted,
    Unavailable,
)
from model_store import Store, durable_files, open_store
from model_store.publication import publish
from tests.model_store.samples import MODEL, assert_whole, made, stored, unstored, weights


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    with open_store(root.as_uri()) as store:
        yield store


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def test_opening_and_reading_make_nothing(store: Store, root: Path) -> None:
    assert (store.models(), store.versions(MODEL), store.channels(MODEL)) == ([], [], [])
    assert (store.epoch(MODEL), store.revision(MODEL)) == (0, 0)
    assert store.wait_for_change(MODEL, 0, 0.01) == 0
    assert store.missing_blobs(unstored(1).digests()) == set(unstored(1).digests())
    assert not root.exists()


def test_everything_is_for_its_user_only(store: Store, root: Path) -> None:
    store.acquire_epoch(MODEL, "trainer")
    publish(store, stored(store, 1))
    for path in (root, *root.rglob("*")):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_a_publication_leaves_nothing_in_staging(store: Store, root: Path) -> None:
    publish(store, stored(store, 1))
    assert list((root / "staging").iterdir()) == []


def test_content_is_durable_before_its_name_and_the_name_before_the_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store, 1)
    steps: list[str] = []
    fsync, replace, link = os.fsync, Path.replace, os.link

    def seen_fsync(descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        steps.append("fsync directory" if stat.S_ISDIR(mode) else "fsync file")
        fsync(descriptor)

    def seen_replace(path: Path, final: Path) -> Path:
        if final.name != "changed":
            steps.append("rename")
        return replace(path, final)

    def seen_link(source: Path, final: Path) -> None:
        steps.append("link")
        link(source, final)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "replace", seen_replace)
    monkeypatch.setattr(os, "link", seen_link)

    store.put_blob(weights(1))
    # It was there, but who put it there may not have come to the end.
    assert steps == ["fsync directory"]
    manifest = stored(store, 2)
    assert steps[-3:] == ["fsync file", "rename", "fsync directory"]
    steps.clear()
    store.create_version(manifest)
    assert steps == ["fsync file", "link", "link", "fsync directory", "fsync directory"]
    steps.clear()
    store.move_channel(MODEL, "stable", 2, expected_revision=0, reason="set")
    assert steps == ["fsync file", "rename", "fsync directory"]


@pytest.mark.parametrize(
    ("number", "category", "reason"),
    [
        (errno.EIO, Unavailable, "STORE_UNAVAILABLE"),
        (errno.ENOSPC, ResourceExhausted, "STORE_FULL"),
        (errno.EDQUOT, ResourceExhausted, "STORE_FULL"),
        (errno.EROFS, FailedPrecondition, "STORE_ACCESS"),
    ],
)
@pytest.mark.parametrize("action", ["put_blob", "create_version", "move_channel"])
def test_a_failed_fsync_commits_nothing_and_is_run_again_from_the_start(
    store: Store,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    category: type[HeadraceError],
    reason: str,
    action: str,
) -> None:
    made(store, 1)
    manifest = stored(store, 2)
    actions: dict[str, Callable[[], object]] = {
        "put_blob": lambda: store.put_blob(weights(7)),
        "create_version": lambda: store.create_version(manifest),
        "move_channel": lambda: store.move_channel(
            MODEL, "stable", 1, expected_revision=0, reason="set"
        ),
    }
    before = store.revision(MODEL)

    def failing(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        with pytest.raises(category) as raised:
            actions[action]()
    assert raised.value.reason == reason
    assert str(root) not in raised.value.message
    assert list((root / "staging").iterdir()) == []
    assert store.revision(MODEL) == before
    actions[action]()
    assert_whole(store)


def test_a_version_stands_where_only_the_hint_failed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(final: Path, content: bytes, staging: Path) -> None:
        raise ResourceExhausted("STORE_FULL", "full")

    manifest = stored(store, 1)
    monkeypatch.setattr(durable_files, "hint_file", failing)
    assert store.create_version(manifest).version == 1
    # Without a hint the reader finds it when it looks again by itself.
    assert store.wait_for_change(MODEL, 0, 60.0) == 1


def test_a_lock_held_for_ever_is_reported(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store, 1)
    manifest = stored(store, 2)
    monkeypatch.setattr(durable_files, "LOCK_TIMEOUT_S", 0.02)
    with durable_files.locked(root / "models" / MODEL / "lock"):
        with pytest.raises(Unavailable) as raised:
            store.create_version(manifest)
        # Readers take no lock.
        assert assert_whole(store) == [1]
    assert raised.value.reason == "STORE_BUSY"
    assert store.create_version(manifest).version == 2


def test_where_locks_are_ignored_each_version_still_has_one_writer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def ignored(path: Path, *, shared: bool = False) -> Iterator[None]:
        yield

    monkeypatch.setattr(durable_files, "locked", ignored)
    manifests = [stored(store, step, commit_id=f"step-{step}") for step in range(6)]
    with ThreadPoolExecutor(6) as threads:
        created = list(threads.map(store.create_version, manifests))
        epochs = list(threads.map(lambda _: store.acquire_epoch(MODEL, "x"), range(6)))
    assert sorted(one.version for one in created) == [1, 2, 3, 4, 5, 6]
    assert sorted(epochs) == [1, 2, 3, 4, 5, 6]
    assert assert_whole(store) == [1, 2, 3, 4, 5, 6]


# Leftovers of killed publishers


def left_behind(root: Path, *, age_s: float) -> Path:
    path = root / "staging" / f"1-{age_s}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half a bl")
    then = path.stat().st_mtime - age_s
    os.utime(path, (then, then))
    return path


def test_the_next_writer_removes_what_was_abandoned(root: Path) -> None:
    old = left_behind(root, age_s=3600)
    with open_store(root.as_uri()) as store:
        made(store, 1)
    assert not old.exists()


def test_a_young_leftover_is_not_touched(root: Path) -> None:
    young = left_behind(root, age_s=60)
    with open_store(root.as_uri()) as store:
        made(store, 1)
    assert young.exists()


def test_an_old_file_whose_writer_lives_is_not_touched(root: Path) -> None:
    slow = left_behind(root, age_s=3600)
    with slow.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with open_store(root.as_uri()) as store:
            made(store, 1)
        assert slow.exists()
    with open_store(root.as_uri()) as store:
        made(store, 2)
    assert not slow.exists()


def test_a_live_writer_holds_the_lock_of_its_file(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store, 1)
    fsync, staged, swept = os.fsync, threading.Event(), threading.Event()

    def slow_fsync(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            staged.set()
            swept.wait(30)
        fsync(descriptor)

    with ThreadPoolExecutor(1) as threads:
        monkeypatch.setattr(os, "fsync", slow_fsync)
        writing = threads.submit(store.put_blob, b"slow")
        assert staged.wait(30)
        assert len(list((root / "staging").iterdir())) == 1
        assert durable_files.sweep(root / "staging", now_s=1e10) == 0
        swept.set()
        assert store.read_blob(writing.result(60)) == b"slow"


def test_a_failed_writer_leaves_nothing(store: Store, root: Path) -> None:
    failpoints.arm("store.blob.before_rename=error")
    with pytest.raises(Internal):
        store.put_blob(b"x")
    assert list((root / "staging").iterdir()) == []


def test_only_what_is_a_version_counts(store: Store, root: Path) -> None:
    made(store, 1)
    versions = root / "models" / MODEL / "versions"
    (versions / "000000000002.tmp").touch()
    (versions / "2").touch()
    (root / "models" / "empty").mkdir()
    assert (store.versions(MODEL), store.models()) == ([1], [MODEL])
    assert made(store, 2).version == 2


def test_a_torn_blob_that_is_read_as_a_whole_is_paced_too(store: Store, root: Path) -> None:
    name, told = store.put_blob(b"weights"), list[int]()
    (path,) = (path for path in (root / "blobs").rglob("*") if path.is_file())
    path.chmod(0o600)
    path.write_bytes(b"weight")
    with pytest.raises(DataLoss):
        store.read_blob_into(name, memoryview(bytearray(7)), told.append)
    assert told == [7]
