"""Waiting for a name in a directory to be replaced, without asking again and again.

Decides only when to look again: inotify where the kernel offers it, which wakes at once and costs
nothing while nothing happens, with a slow poll beside it for changes made by another host of a
shared volume, which inotify never sees; a quick poll elsewhere. What changed is the caller's part.
"""

from __future__ import annotations

import ctypes
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock

_IN_MOVED_TO = 0x80

# One wake-up costs about 0.1 ms of CPU: 1 % of a core at the quick interval, 0.1 % at the slow one.
_QUICK_POLL_S = 0.01
_SLOW_POLL_S = 0.1


class DirectoryWatch:
    """For one thread at a time; `live` is False where only the quick poll is left."""

    live = False

    def __init__(self, directory: Path) -> None:
        self._descriptor = _watched(directory)
        self.live = self._descriptor >= 0

    def wait(self, timeout_s: float, interrupted: Event) -> None:
        """Returns when there may be a change: at the latest after `timeout_s`, often earlier."""
        if not self.live:
            interrupted.wait(min(timeout_s, _QUICK_POLL_S))
            return
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        if poll.poll(min(timeout_s, _SLOW_POLL_S) * 1000):
            # Drained, or the next wait would end at once for the same change.
            os.read(self._descriptor, 65536)

    def close(self) -> None:
        if self.live:
            self.live = False
            os.close(self._descriptor)

    def __del__(self) -> None:
        self.close()


class DirectoryWatches:
    """Watches kept from one wait to the next, because the kernel takes milliseconds to end one.

    A kept watch goes on collecting changes: its next wait may end at once for an old one.
    """

    def __init__(self) -> None:
        self._idle: dict[Path, list[DirectoryWatch]] = {}
        self._lock = Lock()
        self._closed = False

    @contextmanager
    def watching(self, directory: Path) -> Iterator[DirectoryWatch]:
        """A watch that nobody else uses; it began before this returns."""
        watch = self._taken(directory)
        try:
            yield watch
        finally:
            self._give_back(directory, watch)

    def close(self) -> None:
        """Ends the idle watches now and the others as they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, {}
        for watches in idle.values():
            for watch in watches:
                watch.close()

    def _taken(self, directory: Path) -> DirectoryWatch:
        with self._lock:
            idle = self._idle.get(directory)
            if idle:
                return idle.pop()
        return DirectoryWatch(directory)

    def _give_back(self, directory: Path, watch: DirectoryWatch) -> None:
        with self._lock:
            if watch.live and not self._closed:
                self._idle.setdefault(directory, []).append(watch)
                return
        watch.close()


def _watched(directory: Path) -> int:
    """An inotify descriptor, or -1: no inotify here, no such directory yet, too many watchers."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        return -1
    descriptor = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if descriptor >= 0 and libc.inotify_add_watch(descriptor, bytes(directory), _IN_MOVED_TO) < 0:
        os.close(descriptor)
        return -1
    return descriptor
