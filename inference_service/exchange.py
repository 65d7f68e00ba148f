"""headrace.v1.BlobExchange: gives blobs to peers, fetching first what is not here yet."""

# ruff: noqa: N802 - RPC names are the protocol's.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from chassis.call import Call
from chassis.errors import Aborted
from inference_service.peers import PeerBlobs
from model_store.host_cache import HostCache
from protos.headrace.v1 import exchange_pb2

PART_BYTES = 1024 * 1024
# Blobs that are in memory for peers at once; others wait.
MOST_AT_ONCE = 8


class ExchangeServicer:
    """`own` is this replica's address as its peers know it."""

    def __init__(self, own: str, cache: HostCache, peers: PeerBlobs) -> None:
        self._own = own
        self._cache = cache
        self._peers = peers
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="exchange")
        self._room = asyncio.Semaphore(MOST_AT_ONCE)

    async def ReadBlob(
        self, request: exchange_pb2.ReadBlobRequest, _call: Call
    ) -> AsyncIterator[exchange_pb2.ReadBlobResponse]:
        """One blob, part by part.

        Raises what `Store.read_blob` does, and Aborted (RELAY_CIRCLE).
        """
        if self._own in request.via:
            raise Aborted("RELAY_CIRCLE", "the question came round: lists of peers differ")
        async with self._room:
            loop = asyncio.get_running_loop()
            content = await loop.run_in_executor(
                self._threads, self._provided, request.digest, tuple(request.via)
            )
            view = memoryview(content)
            for start in range(0, max(1, len(view)), PART_BYTES):
                part = bytes(view[start : start + PART_BYTES])
                yield exchange_pb2.ReadBlobResponse(size_bytes=len(view), content=part)

    def close(self) -> None:
        """Ends the threads once their calls return."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _provided(self, digest: str, via: Sequence[str]) -> bytes:
        return self._cache.fetched(digest, lambda: self._peers.relayed(digest, via))
