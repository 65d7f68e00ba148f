"""Memory goes back to the system while others are served."""

import asyncio
import ctypes

from chassis.memory import return_memory


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
