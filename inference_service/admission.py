"""Bounds what may wait or run at once, in batches and in bytes. Owned by the event loop."""

from __future__ import annotations

import asyncio

from chassis.errors import ResourceExhausted


class Admission:
    """Counts work from its arrival until its answer is taken."""

    def __init__(self, *, max_requests: int, max_bytes: int) -> None:
        self.requests = 0
        self.bytes = 0
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self, size_bytes: int) -> None:
        """Takes up room; every `enter` is followed by one `leave`.

        Raises ResourceExhausted (QUEUE_FULL).
        """
        if self.requests >= self._max_requests or (
            self.requests and self.bytes + size_bytes > self._max_bytes
        ):
            raise ResourceExhausted(
                "QUEUE_FULL",
                f"the replica has {self.requests} batches of {self.bytes} bytes waiting; its "
                f"bounds are {self._max_requests} and {self._max_bytes} bytes",
            )
        self.requests += 1
        self.bytes += size_bytes
        self._idle.clear()

    def leave(self, size_bytes: int) -> None:
        """Gives the room back."""
        self.requests -= 1
        self.bytes -= size_bytes
        if not self.requests:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Returns once nothing waits or runs."""
        await self._idle.wait()
