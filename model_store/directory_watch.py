"""Waiting for a name in a directory to be replaced, without asking again and again.

Decides only when to look again: inotify where the kernel offers it, which wakes at once and costs
nothing while nothing happens, with a slow poll beside it for changes made by another host of a
shared volume, which inotify never sees; a quick poll elsewhere. What changed is the caller's part.
"""

from __future__ import annotations

import ctypes
import os
import select
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Self

_IN_MOVED_TO = 0x80

# One wake-up costs about 0.1 ms of CPU: 1 % of a core at the quick interval, 0.1 % at the slow one.
_QUICK_POLL_S = 0.01
_SLOW_POLL_S = 0.1


class DirectoryWatch:
    """Use as a context manager; a change between entry and `wait` ends that wait."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._descriptor = _watched(self._directory)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def wait(self, timeout_s: float, interrupted: Event) -> None:
        """Returns when there may be a change: at the latest after `timeout_s`, often earlier."""
        if self._descriptor < 0:
            interrupted.wait(min(timeout_s, _QUICK_POLL_S))
            return
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        if poll.poll(min(timeout_s, _SLOW_POLL_S) * 1000):
            # Drained, or the next wait would end at once for the same change.
            os.read(self._descriptor, 65536)


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
