"""Gives memory that a burst took back to the system.

glibc keeps what is freed below a block still in use: after a few messages with a million entries
a gateway of 90 MB stays at 270 MB for good. Every INTERVAL_S `malloc_trim` returns such pages; it
walks the heap for a millisecond or two, in a thread, without the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import ctypes

INTERVAL_S = 5.0


async def return_memory(interval_s: float = INTERVAL_S) -> None:
    """Runs until it is cancelled; ends at once where the C library has no `malloc_trim`."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return
    while True:
        await asyncio.sleep(interval_s)
        await asyncio.to_thread(trim, 0)
