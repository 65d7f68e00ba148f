"""Memory goes back to the system while others are served, and threads share arenas."""

import asyncio
import ctypes
import os
import subprocess
import sys

import pytest

from chassis.memory import ARENAS, limit_arenas, return_memory

# Eight threads that allocate at the same time; prints how many arenas there are then.
ALLOCATING = """
import ctypes, sys, threading
from chassis.memory import limit_arenas
limit_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
together = threading.Barrier(8)
def allocate():
    together.wait()
    for _ in range(1000):
        libc.malloc(2000)
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.fopen.restype = libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


def arenas_of_a_process(**environment: str) -> int:
    kept = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    printed = subprocess.run(
        [sys.executable, "-c", ALLOCATING],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return printed.count("<heap nr=")


glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_info"), reason="only glibc has arenas"
)


@glibc
def test_threads_share_arenas():
    assert arenas_of_a_process() == ARENAS


@glibc
@pytest.mark.parametrize(
    "setting",
    [{"MALLOC_ARENA_MAX": "5"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=5"}],
    ids=["variable", "tunable"],
)
def test_the_environment_may_say_how_many(setting):
    assert arenas_of_a_process(**setting) == 5


def test_arenas_of_another_library_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    limit_arenas()


class Library:
    def __init__(self, trimmed: asyncio.Event) -> None:
        self._loop, self._trimmed = asyncio.get_running_loop(), trimmed

    def malloc_trim(self, pad: int) -> int:
        assert pad == 0
        self._loop.call_soon_threadsafe(self._trimmed.set)
        return 1


async def test_it_trims_until_it_is_cancelled(monkeypatch):
    trimmed = asyncio.Event()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library(trimmed))
    task = asyncio.create_task(return_memory(0.001))
    await asyncio.wait_for(trimmed.wait(), 10)
    trimmed.clear()
    await asyncio.wait_for(trimmed.wait(), 10)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_library_without_it_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    await asyncio.wait_for(return_memory(0.001), 10)
