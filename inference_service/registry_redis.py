"""Tells gateways through Redis that this replica is here: a lease that ends with the replica.

Writes `headrace:registry:<address>` with a time to live and renews it; a replica that dies is gone
from the registry within that time, one that drains at once. Whether it is healthy is for the
gateway's health calls to find out. A registry that does not answer never stops the replica.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os

import redis.asyncio as redis
from redis.exceptions import RedisError

from chassis.telemetry import logger

log = logger(__name__)

KEY_PREFIX = "headrace:registry:"
LEASE_S = 3.0
RENEW_S = 1.0
# redis-py alone would wait a minute for a server that hangs.
SOCKET_TIMEOUT_S = 2.0


async def read_leases(url: str) -> frozenset[str]:
    """Addresses of the replicas in the registry. Raises OSError where it cannot be read."""
    client: redis.Redis = redis.Redis.from_url(
        url, socket_timeout=SOCKET_TIMEOUT_S, socket_connect_timeout=SOCKET_TIMEOUT_S
    )
    try:
        async with client:
            keys = [key async for key in client.scan_iter(match=KEY_PREFIX + "*", count=1000)]
    except RedisError as error:
        raise ConnectionError("the registry does not answer") from error
    return frozenset(key.decode().removeprefix(KEY_PREFIX) for key in keys)


class RegistryLease:
    """One replica's entry. `start` begins to renew it in a task, `end` removes it."""

    def __init__(self, url: str, *, address: str, name: str) -> None:
        self._url = url
        self._key = KEY_PREFIX + address
        self._entry = json.dumps({"address": address, "name": name, "pid": os.getpid()})
        self._task: asyncio.Task[None] | None = None
        self._lost = False

    def start(self) -> None:
        """Registers, and renews from now on."""
        if self._task is None:
            self._task = asyncio.create_task(self._renew(), name="registry-lease")

    async def end(self) -> None:
        """Stops to renew and removes the entry."""
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        async with self._client() as client:
            try:
                await client.delete(self._key)
            except (RedisError, OSError) as error:
                # The lease runs out by itself.
                log.warning("registry entry not removed", error=type(error).__name__)

    async def _renew(self) -> None:
        async with self._client() as client:
            while True:
                await self._write(client)
                await asyncio.sleep(RENEW_S)

    async def _write(self, client: redis.Redis) -> None:
        try:
            await client.set(self._key, self._entry, px=int(LEASE_S * 1000))
        except (RedisError, OSError) as error:
            if not self._lost:
                log.warning("registry does not answer", error=type(error).__name__)
            self._lost = True
        else:
            if self._lost:
                log.info("registry answers again")
            self._lost = False

    def _client(self) -> redis.Redis:
        client: redis.Redis = redis.Redis.from_url(
            self._url,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
        )
        return client
