"""Deadlines, cancellations and bounds: what waits leaves in time, and nobody waits for the gone."""

from __future__ import annotations

import asyncio
import time

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.gateway.calls import (
    ask,
    batches_of,
    code_of,
    reason_of,
    refused,
    rows,
    until,
    until_queued,
)
from tests.gateway.test_infer_wire import typed_call


def request(timeout_us: int = 0, **parameters: str) -> service_pb2.ModelInferRequest:
    made = service_pb2.ModelInferRequest(model_name="sum")
    made.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    made.raw_input_contents.append(np.ones(4, np.float32).tobytes())
    if timeout_us:
        made.parameters["timeout"].int64_param = timeout_us
    for name, value in parameters.items():
        made.parameters[name].string_param = value
    return made


async def test_the_timeout_parameter_ends_a_request_in_flight_and_in_the_queue(replica, gateway):
    fake = replica("--alpha-s", "3")
    process = gateway(fake, max_inflight_batches=1)
    started = time.monotonic()
    results = await asyncio.gather(
        *(typed_call(process.address, request(300_000)) for _ in range(3)), return_exceptions=True
    )
    assert {result.code() for result in results} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert 0.3 <= time.monotonic() - started < 2.5
    assert len(await batches_of(fake)) == 1, "what waited left before it was sent"


async def test_the_default_timeout_applies_where_the_client_names_none(replica, gateway):
    fake = replica("--alpha-s", "3")
    process = gateway(fake, default_timeout_s=0.3)
    started = time.monotonic()
    channel = grpc.aio.insecure_channel(process.address)
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        await call(request().SerializeToString())
    assert reason_of(caught.value) == "DEADLINE_EXCEEDED"
    assert time.monotonic() - started < 2.5
    await channel.close()


async def test_a_cancelled_request_leaves_the_queue(replica, gateway, connect):
    fake = replica("--alpha-s", "1")
    process = gateway(fake, max_inflight_batches=1)
    client = connect(process)
    first = asyncio.create_task(ask(client))

    async def begun() -> bool:
        return sum((await batches_of(fake)).values()) == 1

    await until(begun)
    waiting = [asyncio.create_task(ask(client, rows(2, number))) for number in range(4)]
    await until_queued(process, 4)
    for task in waiting:
        task.cancel()
    await until_queued(process, 0)
    await asyncio.gather(*waiting, return_exceptions=True)
    await first
    await ask(client)
    assert await batches_of(fake) == {1: 2}, "no row of the cancelled was sent"


async def test_a_full_queue_refuses_and_says_when_to_come_back(replica, gateway):
    process = gateway(replica("--alpha-s", "0.5"), max_inflight_batches=1, max_queue_requests=2)
    results = await asyncio.gather(
        *(typed_call(process.address, request()) for _ in range(12)), return_exceptions=True
    )
    errors = [result for result in results if isinstance(result, Exception)]
    assert 8 <= len(errors) < 12, "one or more in flight, two waiting"
    for error in errors:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(error) == "QUEUE_FULL"
        assert ("grpc-retry-pushback-ms", "100") in list(error.trailing_metadata())


async def test_a_queue_full_of_bytes_refuses(replica, gateway, connect):
    client = connect(
        gateway(replica("--alpha-s", "0.5"), max_inflight_batches=1, max_queue_bytes=2000)
    )
    results = await asyncio.gather(
        *(ask(client, rows(16, number)) for number in range(10)), return_exceptions=True
    )
    codes = {code_of(result) for result in results if isinstance(result, Exception)}
    assert codes == {"RESOURCE_EXHAUSTED"}


async def test_an_expired_client_deadline_is_not_sent(replica, gateway, connect):
    fake = replica("--alpha-s", "0.5")
    client = connect(gateway(fake, max_inflight_batches=1))
    first = asyncio.create_task(ask(client))

    async def begun() -> bool:
        return sum((await batches_of(fake)).values()) == 1

    await until(begun)
    error = await refused(ask(client, rows(7), client_timeout=0.1))
    assert code_of(error) == "DEADLINE_EXCEEDED"
    await first
    await ask(client)
    assert await batches_of(fake) == {1: 2}


@pytest.mark.parametrize("name", ["timeout", "max_staleness_ms"])
@pytest.mark.parametrize("value", [2**63, 2**64 - 1])
async def test_the_largest_numbers_reach_the_replica_and_stop_nothing(plain, name, value):
    made = request()
    made.parameters[name].uint64_param = value
    async with grpc.aio.insecure_channel(plain[0].address) as channel:
        # Without a deadline of the call's own.
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert (await stub.ModelInfer(made)).model_name == "sum"
