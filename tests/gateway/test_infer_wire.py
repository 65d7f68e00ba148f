"""What Triton's client sees: answers are those of its own rows, in the form it asked in."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
import tritonclient.grpc as wire
from tritonclient.grpc import service_pb2

from tests.gateway.calls import ask, batches_of, rows, tensor


async def test_concurrent_requests_share_batches_and_get_their_own_rows(replica, gateway, connect):
    fake = replica("--alpha-s", "0.01")
    client = connect(gateway(fake))
    counts = [1 + number % 5 for number in range(60)]
    await asyncio.gather(*(ask(client, rows(count, number)) for number, count in enumerate(counts)))
    batches = await batches_of(fake)
    assert sum(size * count for size, count in batches.items()) == sum(counts)
    assert sum(batches.values()) < 30, "requests shared batches"
    assert 5 < max(batches) <= 64


async def test_a_batch_never_exceeds_the_bound_that_is_set(replica, gateway, connect):
    fake = replica("--alpha-s", "0.01")
    client = connect(gateway(fake, max_batch_size=6))
    await asyncio.gather(*(ask(client, rows(2, number)) for number in range(30)))
    assert max(await batches_of(fake)) == 6
    config = await client.get_model_config("sum")
    assert config.config.max_batch_size == 6


async def test_a_queue_delay_gathers_what_an_idle_replica_would_get_alone(
    replica, gateway, connect
):
    fake = replica()
    client = connect(gateway(fake, max_queue_delay_ms=300, max_batch_size=4))
    await asyncio.gather(*(ask(client, rows(1, number)) for number in range(4)))
    assert await batches_of(fake) == {4: 1}
    await ask(client)
    assert await batches_of(fake) == {4: 1, 1: 1}, "the delay ends for one that stays alone"


async def test_ids_versions_and_names_are_told(plain, connect):
    result = await ask(connect(plain[0]), request_id="mine")
    reply = result.get_response()
    assert (reply.id, reply.model_name, reply.model_version) == ("mine", "sum", "1")
    assert len(reply.raw_output_contents) == 2


async def test_an_output_subset_comes_in_the_order_asked(plain, connect):
    client = connect(plain[0])
    x = rows(2, 3.0)
    wanted = [wire.InferRequestedOutput("copy"), wire.InferRequestedOutput("sum")]
    result = await client.infer("sum", [tensor("x", x, "FP32")], outputs=wanted)
    assert [output.name for output in result.get_response().outputs] == ["copy", "sum"]
    np.testing.assert_array_equal(result.as_numpy("copy"), x)
    result = await client.infer("sum", [tensor("x", x, "FP32")], outputs=wanted[1:])
    assert [output.name for output in result.get_response().outputs] == ["sum"]


async def test_inputs_may_come_in_any_order(plain, connect):
    client = connect(plain[0])
    a, b = np.ones((3, 2), np.float32), np.arange(3).reshape(3, 1)
    inputs = [tensor("b", b, "INT64"), tensor("a", a, "FP32")]
    result = await client.infer("pair", inputs)
    np.testing.assert_array_equal(result.as_numpy("sum"), np.array([[2], [3], [4]], np.float32))


async def test_shapes_that_cannot_be_joined_form_their_own_batches(plain, connect):
    client = connect(plain[0])

    async def one(length: int, value: float) -> None:
        x = np.full((2, length), value, np.float32)
        result = await client.infer("seq", [tensor("x", x, "FP32")])
        np.testing.assert_array_equal(result.as_numpy("sum"), x.sum(axis=1, keepdims=True))

    await asyncio.gather(*(one(1 + number % 4, number) for number in range(40)))


async def test_strings_are_split_by_rows(plain, connect):
    client = connect(plain[0])

    async def one(number: int) -> None:
        words = np.array([[f"w{number}".encode() * at] for at in range(1 + number % 3)], object)
        result = await client.infer("text", [tensor("t", words, "BYTES")])
        assert result.as_numpy("upper").tolist() == [[row[0].upper()] for row in words]

    await asyncio.gather(*(one(number) for number in range(20)))


async def test_a_model_without_batch_dimension_gets_single_requests(plain, connect):
    gateway, fake = plain
    client = connect(gateway)
    x = np.arange(3, dtype=np.float32)
    results = await asyncio.gather(
        *(client.infer("whole", [tensor("x", x + at, "FP32")]) for at in range(6))
    )
    for at, result in enumerate(results):
        np.testing.assert_array_equal(result.as_numpy("y"), (x + at) * 2)
    assert set(await batches_of(fake, "whole")) == {1}


async def typed_call(address: str, request: object) -> object:
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        return await call(request, timeout=10)


async def test_a_typed_request_gets_a_typed_reply(plain):
    request = service_pb2.ModelInferRequest(model_name="sum", id="t")
    entry = request.inputs.add(name="x", datatype="FP32", shape=[2, 4])
    entry.contents.fp32_contents.extend(range(8))
    reply = await typed_call(plain[0].address, request)
    assert not reply.raw_output_contents
    assert list(reply.outputs[0].contents.fp32_contents) == [6.0, 22.0]
    assert list(reply.outputs[1].contents.fp32_contents) == list(range(8))


async def test_a_channel_travels_and_channels_do_not_mix(replica, gateway):
    fake = replica("--alpha-s", "0.05")
    process = gateway(fake)

    async def one(channel: str) -> object:
        request = service_pb2.ModelInferRequest(model_name="sum")
        request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        request.raw_input_contents.append(bytes(16))
        request.parameters["channel"].string_param = channel
        return await typed_call(process.address, request)

    replies = await asyncio.gather(
        *(one("canary") for _ in range(6)), *(one("stable") for _ in range(6))
    )
    assert {reply.model_version for reply in replies} == {"1"}
    assert max(await batches_of(fake)) <= 6
    with pytest.raises(grpc.RpcError) as caught:
        await one("nowhere")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "channel 'nowhere' is unknown"


async def test_typed_and_raw_requests_share_a_batch(replica, gateway, connect):
    fake = replica("--alpha-s", "0.02")
    process = gateway(fake)
    client = connect(process)
    request = service_pb2.ModelInferRequest(model_name="sum")
    entry = request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    entry.contents.fp32_contents.extend([1, 2, 3, 4])
    first, *_rest = await asyncio.gather(
        *(typed_call(process.address, request) for _ in range(4)),
        *(ask(client, rows(1, number)) for number in range(8)),
    )
    assert list(first.outputs[0].contents.fp32_contents) == [10.0]
    assert sum(size * count for size, count in (await batches_of(fake)).items()) == 12


@pytest.mark.parametrize("size", [1, 4 * 2**20])
async def test_large_tensors_pass(plain, connect, size):
    client = connect(plain[0])
    x = np.ones((1, size), np.float32)
    result = await client.infer("seq", [tensor("x", x, "FP32")])
    assert result.as_numpy("sum")[0, 0] == size


async def test_metadata_and_readiness(plain, connect):
    client = connect(plain[0])
    assert await client.is_server_live() and await client.is_server_ready()
    assert await client.is_model_ready("sum") and not await client.is_model_ready("nope")
    assert await client.is_model_ready("sum", "1") and not await client.is_model_ready("sum", "9")
    server = await client.get_server_metadata()
    assert "statistics" in server.extensions
    metadata = await client.get_model_metadata("pair")
    assert [(each.name, list(each.shape)) for each in metadata.inputs] == [
        ("a", [-1, 2]),
        ("b", [-1, 1]),
    ]
    assert list(metadata.versions) == ["1"]
    config = (await client.get_model_config("pair")).config
    assert config.max_batch_size == 64 and list(config.input[0].dims) == [2]
