"""Replicas die, hang, restart and refuse; callers notice nothing that a healthy one can prevent."""

from __future__ import annotations

import asyncio
import signal
import time

import numpy as np
import pytest

from tests.gateway.calls import Load, ask, batches_of, code_of, refused, rows, tensor, until


def states_of(process, fake) -> list[dict[str, str]]:
    """What a gateway logged of an endpoint's states."""
    return [event for event in process.events("endpoint") if event["address"] == fake.address]


async def test_kill_9_of_one_of_two_under_load_fails_nothing_and_it_rejoins(
    replica, gateway, connect
):
    first, second = (replica("--alpha-s", "0.004") for _ in range(2))
    process = gateway(first, second)
    client = connect(process)
    async with Load(client, callers=16) as load:
        await load.answers(200)
        await asyncio.to_thread(first.kill)
        await load.answers(200)
        reborn = await asyncio.to_thread(replica, "--alpha-s", "0.004", port=first.port)

        async def rejoined() -> bool:
            return sum((await batches_of(reborn)).values()) > 0

        assert await until(rejoined) < 5.0
        await load.answers(200)
    assert load.failures == []
    process.stop()
    states = [event["state"] for event in states_of(process, first)]
    assert states == ["healthy", "ejected", "healthy"]


async def test_a_hung_replica_is_left_and_its_batches_go_elsewhere(replica, gateway, connect):
    first, second = (replica("--alpha-s", "0.004") for _ in range(2))
    process = gateway(first, second, health_timeout_s=0.75)
    async with Load(connect(process), callers=16, client_timeout=15.0) as load:
        await load.answers(100)
        first.send(signal.SIGSTOP)

        async def left() -> bool:
            return any("DEADLINE_EXCEEDED" in event["error"] for event in states_of(process, first))

        await until(left)
        await load.answers(100)
        first.send(signal.SIGCONT)
        before = sum((await batches_of(first)).values())

        async def rejoined() -> bool:
            return sum((await batches_of(first)).values()) > before + 5

        await until(rejoined)
    assert load.failures == []
    process.stop()
    assert states_of(process, first)[-1]["state"] == "healthy"


async def test_an_attempt_that_is_never_answered_goes_elsewhere(replica, gateway, connect):
    """The first replica answers its health checks but sits on every batch."""
    lazy, busy = replica("--alpha-s", "600"), replica()
    client = connect(gateway(lazy, busy, attempt_timeout_s=0.5, max_inflight_batches=1))

    async def lazy_got_one() -> bool:
        # Whom the first batches go to is open; every one of them is answered.
        await asyncio.gather(*(ask(client, rows(1, number)) for number in range(4)))
        return sum((await batches_of(lazy)).values()) >= 1

    await until(lazy_got_one)
    assert sum((await batches_of(busy)).values()) >= 1


async def test_requests_wait_while_the_only_replica_restarts(replica, gateway, connect):
    fake = replica("--alpha-s", "0.01")
    client = connect(gateway(fake, unavailable_wait_s=20))
    async with Load(client, callers=4) as load:
        await load.answers(20)
        await asyncio.to_thread(fake.kill)
        await asyncio.to_thread(replica, "--alpha-s", "0.01", port=fake.port)
        await load.answers(20)
    assert load.failures == []


async def test_without_a_replica_the_wait_is_bounded(replica, gateway, connect):
    fake = replica()
    client = connect(gateway(fake, unavailable_wait_s=0.3))
    await ask(client)
    await asyncio.to_thread(fake.kill)
    started = time.monotonic()
    error = await refused(ask(client))
    assert code_of(error) == "UNAVAILABLE" and "no replica" in error.message()
    assert time.monotonic() - started >= 0.3
    assert not await client.is_server_ready() and not await client.is_model_ready("sum")
    error = await refused(client.infer("nope", []))
    assert code_of(error) == "NOT_FOUND", "the gateway has seen the fleet's models"


async def test_before_any_replica_answered_nothing_is_called_unknown(gateway, connect):
    client = connect(gateway("127.0.0.1:1"))
    assert code_of(await refused(ask(client))) == "UNAVAILABLE"
    assert await client.is_server_live() and not await client.is_server_ready()


async def test_a_replica_that_says_it_is_not_ready_gets_no_new_batches(replica, gateway, connect):
    first, second = replica(), replica()
    client = connect(gateway(first, second))
    first.send(signal.SIGUSR1)

    async def looked_away() -> bool:
        before = await batches_of(first)
        for number in range(6):
            await ask(client, rows(1, number))
        return await batches_of(first) == before

    await until(looked_away)
    first.send(signal.SIGUSR2)

    async def looks_again() -> bool:
        return not await looked_away()

    await until(looks_again)


@pytest.mark.parametrize("status", ["UNAVAILABLE", "INTERNAL"])
async def test_a_batch_that_one_replica_cannot_compute_is_computed_by_another(
    replica, gateway, connect, status
):
    broken, sound = replica("--fail", status, "--fail-times", "1000000"), replica()
    client = connect(gateway(broken, sound))
    for number in range(4):
        await ask(client, rows(1, number))
    assert sum((await batches_of(broken)).values()) >= 1


async def test_a_failure_that_every_replica_gives_is_given_back(replica, gateway, connect):
    fake = replica("--fail", "INVALID_ARGUMENT", "--fail-times", "1")
    client = connect(gateway(fake))
    error = await refused(ask(client))
    assert code_of(error) == "INVALID_ARGUMENT" and "on request" in error.message()
    await ask(client)


async def test_servers_without_streams_and_index_are_served_unary(replica, gateway, connect):
    fake = replica("--no-stream", "--no-index", "--alpha-s", "0.005")
    process = gateway(fake, models="sum")
    client = connect(process)
    await asyncio.gather(*(ask(client, rows(1, number)) for number in range(40)))
    batches = await batches_of(fake)
    assert sum(size * count for size, count in batches.items()) >= 40
    assert max(batches) > 1
    async with Load(client, callers=4, client_timeout=20.0) as load:
        await load.answers(20)
        await asyncio.to_thread(fake.kill)
        await asyncio.to_thread(
            replica, "--no-stream", "--no-index", "--alpha-s", "0.005", port=fake.port
        )
        await load.answers(20)
    assert load.failures == []


async def test_a_message_too_large_for_the_replica_spares_its_neighbours(replica, gateway, connect):
    fake = replica("--models", "seq,sum", "--message-bytes", "100000", "--alpha-s", "0.01")
    client = connect(gateway(fake))

    big = client.infer("seq", [tensor("x", np.ones((1, 60_000), np.float32), "FP32")])
    results = await asyncio.gather(
        refused(big), *(ask(client, rows(1, number)) for number in range(12))
    )
    assert code_of(results[0]) == "RESOURCE_EXHAUSTED"


async def test_endpoints_that_disagree_the_odd_one_is_left_out(replica, gateway, connect):
    pair = [replica() for _ in range(2)]
    odd = replica("--width", "5")
    process = gateway(*pair, odd)
    client = connect(process)
    await asyncio.gather(*(ask(client, rows(1, number)) for number in range(20)))
    assert await batches_of(odd) == {}
    process.stop()
    # Until the third has answered, the first to answer counts.
    odd_ones = process.events("endpoint describes a model otherwise")
    assert odd_ones[-1]["endpoint"] == odd.address


async def test_a_pinned_version_is_answered_by_its_holder_or_refused(replica, gateway, connect):
    replicas = [replica("--version", "1"), replica("--version", "2")]
    client = connect(gateway(*replicas))
    for version in ("1", "2", "1", "2"):
        result = await ask(client, model_version=version)
        assert result.get_response().model_version == version
    metadata = await client.get_model_metadata("sum")
    assert list(metadata.versions) == ["1", "2"]
    error = await refused(ask(client, model_version="3"))
    assert code_of(error) == "FAILED_PRECONDITION"
    assert "version 3 is not loaded" in error.message()
    tried = [sum((await batches_of(fake)).values()) for fake in replicas]
    assert tried == [3, 3], "each was asked once for version 3"
