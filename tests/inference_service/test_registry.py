"""The lease in a real Redis: there while the replica is ready, gone when it drains or dies."""

from __future__ import annotations

import asyncio
import json
import os

import pytest
import redis.asyncio as redis

from inference_service import registry_redis
from inference_service.registry_redis import RegistryLease
from tests.inference_service.served_replica import ServedReplica


@pytest.fixture
async def database(redis_url):
    async with redis.Redis.from_url(redis_url) as client:
        yield client
        for key in await client.keys("headrace:registry:*"):
            await client.delete(key)


async def entry(database, address):
    found = await database.get(f"headrace:registry:{address}")
    return None if found is None else json.loads(found)


async def wait_for(condition):
    async with asyncio.timeout(10):
        while True:
            found = await condition()
            if found:
                return found
            await asyncio.sleep(0.005)


async def test_a_ready_replica_holds_a_lease_until_it_drains(store_url, line, database, redis_url):
    async with ServedReplica(store_url, registry=redis_url, name="one") as replica:
        address = f"127.0.0.1:{replica.port}"
        assert await entry(database, address) is None, "not before it is ready"
        line.publish(1.0)
        found = await wait_for(lambda: entry(database, address))
        assert found == {"address": address, "name": "one", "pid": os.getpid()}
        assert 0 < await database.pttl(f"headrace:registry:{address}") <= 3000
        await replica.replica.drain()
        assert await entry(database, address) is None


async def test_the_advertised_address_is_registered(store_url, line, database, redis_url):
    line.publish(1.0)
    there = "replica-0.fleet:8011"
    async with ServedReplica(store_url, registry=redis_url, advertise=there):
        assert (await wait_for(lambda: entry(database, there)))["address"] == there


async def test_the_lease_is_renewed(database, redis_url, monkeypatch):
    monkeypatch.setattr(registry_redis, "RENEW_S", 0.01)
    lease = RegistryLease(redis_url, address="a:1", name="a")
    lease.start()
    await wait_for(lambda: entry(database, "a:1"))
    await database.delete("headrace:registry:a:1")
    await wait_for(lambda: entry(database, "a:1"))
    await lease.end()
    assert await entry(database, "a:1") is None
    await lease.end()


async def test_a_registry_that_is_away_stops_nobody(store_url, line, monkeypatch):
    monkeypatch.setattr(registry_redis, "RENEW_S", 0.01)
    line.publish(1.0)
    async with ServedReplica(store_url, registry="redis://127.0.0.1:1/0") as replica:
        await replica.wait_ready()
        await asyncio.sleep(0.05)
        assert replica.replica.readiness.ready
