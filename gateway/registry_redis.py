"""Endpoints from a Redis registry: replicas hold leases there, keys that expire.

A lease is `headrace:registry:<address>`; the address in the key is all that is read. A registry
that cannot be read leaves the addresses as they were last known, and is read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from chassis.errors import InvalidArgument
from chassis.telemetry import logger
from gateway.discovery import checked_address, is_address

log = logger(__name__)
LEASES = "headrace:registry:"
READ_EVERY_S = 0.5
# redis-py waits for ever by default; a hung registry must not be mistaken for a slow one.
SOCKET_TIMEOUT_S = 2.0
MAX_ENDPOINTS = 1024


class RedisDirectory:
    """The registry's addresses and some that are always there."""

    def __init__(self, url: str, always: Iterable[str] = ()) -> None:
        """`url` is redis://host:port/db. Raises InvalidArgument (BAD_REGISTRY, BAD_ADDRESS)."""
        if not url.startswith(("redis://", "rediss://")):
            raise InvalidArgument(
                "BAD_REGISTRY",
                f"registry {url!r} is not a URL of Redis: expected redis://host:port/db",
            )
        self._url = url
        self._always = frozenset(checked_address(address) for address in always)
        self._reachable = True

    async def follow(self) -> AsyncIterator[frozenset[str]]:
        """As `Directory.follow`."""
        client = Redis.from_url(
            self._url,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            decode_responses=True,
        )
        last: frozenset[str] | None = None
        try:
            while True:
                addresses = await self._read(client, last or self._always)
                if addresses != last:
                    last = addresses
                    yield addresses
                await asyncio.sleep(READ_EVERY_S)
        finally:
            await client.aclose()

    async def _read(self, client: Redis, last: frozenset[str]) -> frozenset[str]:
        found: set[str] = set()
        try:
            async for key in client.scan_iter(match=LEASES + "*", count=1000):
                address = str(key).removeprefix(LEASES)
                if is_address(address) and len(found) < MAX_ENDPOINTS:
                    found.add(address)
        except (RedisError, OSError, TimeoutError) as error:
            if self._reachable:
                log.warning("registry unreachable, keeping what is known", error=str(error))
            self._reachable = False
            return last
        if not self._reachable:
            log.info("registry reachable again", endpoints=len(found))
        self._reachable = True
        return self._always | found
