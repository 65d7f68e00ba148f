"""Waiting for a change of a file store: inotify, polls, watches that are kept."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model_store import Store, directory_watch, durable_files, open_store
from tests.model_store.samples import MODEL, made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    with open_store(root.as_uri()) as store:
        yield store


@pytest.mark.parametrize("inotify", [True, False])
def test_waiting_works_with_inotify_and_without(
    store: Store, monkeypatch: pytest.MonkeyPatch, inotify: bool
) -> None:
    if not inotify:
        monkeypatch.setattr(directory_watch, "_watched", lambda directory: -1)
    made(store, 1)
    for seen in (1, 2, 3):
        woken: list[int] = []
        waiting = threading.Thread(
            target=lambda seen=seen, woken=woken: woken.append(
                store.wait_for_change(MODEL, seen, 60.0)
            )
        )
        waiting.start()
        made(store, seen)
        waiting.join(30)
        assert woken == [seen + 1]


def test_a_watch_is_quiet_again_once_it_has_told(tmp_path: Path) -> None:
    watch = directory_watch.DirectoryWatch(tmp_path)
    assert watch.live
    for content in (b"1", b"2"):
        durable_files.hint_file(tmp_path / "changed", content, tmp_path)
    watch.wait(30.0, threading.Event())
    # Else every wait after the first change would return at once and spin.
    assert select.select([watch._descriptor], [], [], 0)[0] == []
    watch.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_waiting_thread_uses_its_watch_again(store: Store) -> None:
    made(store, 1)
    open_before = open_files()
    for _ in range(5):
        store.wait_for_change(MODEL, 1, 0.001)
    assert open_files() == open_before + 1
    store.close()
    assert open_files() == open_before


def test_a_change_by_another_host_shows_at_the_slow_poll(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store, 1)

    class Deaf(directory_watch.DirectoryWatch):
        def wait(self, timeout_s: float, interrupted: threading.Event) -> None:
            # As inotify is for writes that another host of the volume made.
            interrupted.wait(min(timeout_s, 0.001))

    monkeypatch.setattr(directory_watch, "DirectoryWatch", Deaf)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(store.wait_for_change, MODEL, 1, 60.0)
        with open_store(root.as_uri()) as other:
            made(other, 2)
        assert waiting.result(30) == 2
