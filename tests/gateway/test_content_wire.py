"""Forms, sizes, memory and bounds of requests, with Triton's client against a real gateway."""

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import grpc
import numpy as np
import pytest
import tritonclient.grpc as wire
from tritonclient.grpc import service_pb2
from tritonclient.utils import shared_memory as triton_memory

from tests.gateway.calls import (
    batches_of,
    code_of,
    reason_of,
    refused,
    rows,
    status_of,
    tensor,
    until_queued,
)

FLOATS = np.array([[0.5, -1.0, 2.25], [3.0, 3.0, np.nan]], np.float32)


@pytest.mark.parametrize(
    ("output", "count", "expected"),
    [
        ("FP32", 2, [["2.250000:2", "0.500000:0:cat"], ["3.000000:0:cat", "3.000000:1:dog"]]),
        ("FP16", 1, [["2.250000:2"], ["3.000000:0"]]),
        ("BF16", 1, [["2.250000:2"], ["3.000000:0"]]),
        ("FP32", 9, [["2.250000:2", "0.500000:0:cat", "-1.000000:1:dog"]]),
    ],
)
async def test_outputs_as_classes(plain, connect, output, count, expected):
    x = FLOATS[: len(expected)]
    outputs = [
        wire.InferRequestedOutput(output, class_count=count),
        wire.InferRequestedOutput("INT64"),
    ]
    # NaN as an integer is whatever the machine makes of it.
    result = await connect(plain[0]).infer("classes", [tensor("x", x, "FP32")], outputs=outputs)
    found = result.as_numpy(output)
    assert [[text.decode() for text in row] for row in found] == expected
    assert result.get_output("INT64").datatype == "INT64"
    assert result.as_numpy("INT64")[0].tolist() == [0, -1, 2]


async def test_classes_of_a_bool_are_refused(plain, connect):
    outputs = [wire.InferRequestedOutput("BOOL", class_count=1)]
    call = connect(plain[0]).infer("classes", [tensor("x", FLOATS, "FP32")], outputs=outputs)
    error = await refused(call)
    assert code_of(error) == "INVALID_ARGUMENT" and "'BOOL' is BOOL" in error.message()


async def padded(client, width, value=1.0):
    x = np.full((1, width), value, np.float32)
    result = await client.infer("pad", [tensor("x", x, "FP32")])
    np.testing.assert_array_equal(result.as_numpy("copy"), x)
    return result.as_numpy("sum")[0, 0] - x.sum()


async def test_sizes_of_one_bucket_share_a_batch_and_each_gets_its_own_back(
    replica, gateway, connect
):
    behind = replica("--models", "pad,seq")
    # A batch leaves when two are there; nothing in this test waits that long.
    front = gateway(behind, max_batch_size=2, max_queue_delay_ms=20_000)
    client = connect(front)
    filler = await asyncio.gather(padded(client, 2, 5.0), padded(client, 3, 7.0))
    assert filler == [2000, 1000]
    assert await batches_of(behind, "pad") == {2: 1}
    # Another bucket, another queue; what no bucket holds goes by its own size.
    pending = [asyncio.create_task(padded(client, width)) for width in (4, 8, 9)]
    await until_queued(front, 3, "pad")
    assert await asyncio.gather(padded(client, 1), padded(client, 5), padded(client, 9)) == [
        3000,
        3000,
        0,
    ]
    assert await asyncio.gather(*pending) == [0, 0, 0]
    assert await batches_of(behind, "pad") == {2: 4}


async def test_without_padding_each_size_has_its_queue(replica, gateway, connect):
    behind = replica("--models", "seq")
    front = gateway(behind, max_batch_size=2, max_queue_delay_ms=20_000)
    client = connect(front)

    async def total(width):
        x = np.ones((1, width), np.float32)
        return (await client.infer("seq", [tensor("x", x, "FP32")])).as_numpy("sum")[0, 0]

    pending = [asyncio.create_task(total(width)) for width in (2, 3)]
    await until_queued(front, 2, "seq")
    assert not await batches_of(behind, "seq")
    assert await asyncio.gather(total(2), total(3), *pending) == [2, 3, 2, 3]
    assert await batches_of(behind, "seq") == {2: 2}


def typed_request(model, *inputs):
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, datatype, shape, holder, values in inputs:
        made = request.inputs.add(name=name, datatype=datatype, shape=shape)
        getattr(made.contents, holder).extend(values)
    return request


async def send(address, request):
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=type(request).SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        return await call(request, timeout=10)


async def test_typed_in_typed_out_unless_an_output_cannot_be(plain):
    request = typed_request("classes", ("x", "FP32", [1, 3], "fp32_contents", [1, 2, 3]))
    reply = await send(plain[0].address, request)
    assert len(reply.raw_output_contents) == len(reply.outputs) == 5
    for name in ("BOOL", "INT64"):
        request.outputs.add(name=name)
    reply = await send(plain[0].address, request)
    assert not reply.raw_output_contents
    assert [list(output.contents.int64_contents) for output in reply.outputs] == [[], [1, 2, 3]]
    request = typed_request("text", ("t", "BYTES", [2, 1], "bytes_contents", [b"a", b""]))
    reply = await send(plain[0].address, request)
    assert list(reply.outputs[0].contents.bytes_contents) == [b"A", b""]


@pytest.fixture
def shared() -> Iterator[tuple[object, str]]:
    """Triton's handle of 64 bytes, and their key."""
    key = f"/headrace_{uuid4().hex}"
    handle = triton_memory.create_shared_memory_region("region", key, 64)
    yield handle, key
    triton_memory.destroy_shared_memory_region(handle)


async def test_inputs_and_outputs_in_shared_memory(replica, gateway, connect, shared):
    handle, key = shared
    front = gateway(replica("--models", "pair,sum"), shared_memory=True)
    client = connect(front)
    await client.register_system_shared_memory("region", key, 64)
    status = await client.get_system_shared_memory_status(as_json=True)
    assert status["regions"]["region"]["key"] == key
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    triton_memory.set_shared_memory_region(handle, [x])
    given = wire.InferInput("x", [2, 4], "FP32")
    given.set_shared_memory("region", 32)
    total = wire.InferRequestedOutput("sum")
    total.set_shared_memory("region", 16, offset=32)
    result = await client.infer("sum", [given], outputs=[total, wire.InferRequestedOutput("copy")])
    assert result.get_output("sum").parameters["shared_memory_region"].string_param == "region"
    assert list(result.get_output("sum").shape) == [2, 1]
    found = triton_memory.get_contents_as_numpy(handle, np.float32, [2, 1], offset=32)
    assert found.tolist() == [[6], [22]]
    # The other output is where Triton's client looks for it.
    assert np.array_equal(result.as_numpy("copy"), x)
    # One input there, the other in the message.
    first = wire.InferInput("a", [1, 2], "FP32")
    first.set_shared_memory("region", 8, offset=4)
    result = await client.infer("pair", [first, tensor("b", np.array([[10]]), "INT64")])
    assert result.as_numpy("sum").tolist() == [[13]]
    await client.unregister_system_shared_memory()
    error = await refused(client.infer("pair", [first, tensor("b", np.array([[10]]), "INT64")]))
    assert code_of(error) == "NOT_FOUND" and "'region' is not registered" in error.message()


async def test_an_output_that_does_not_fit_fails_alone(replica, gateway, connect, shared):
    _, key = shared
    behind = replica()
    front = gateway(behind, shared_memory=True, max_batch_size=2, max_queue_delay_ms=20_000)
    client = connect(front)
    await client.register_system_shared_memory("region", key, 64)
    small = wire.InferRequestedOutput("copy")
    small.set_shared_memory("region", 15)
    failing, fine = await asyncio.gather(
        refused(client.infer("sum", [tensor("x", rows(), "FP32")], outputs=[small])),
        client.infer("sum", [tensor("x", rows(value=3.0), "FP32")]),
    )
    assert code_of(failing) == "INVALID_ARGUMENT"
    assert "16 bytes; the request gave 15" in failing.message()
    assert fine.as_numpy("sum").tolist() == [[12]]
    assert await batches_of(behind) == {2: 1}
    statistics = await client.get_inference_statistics("sum")
    counted = [entry.inference_stats for entry in statistics.model_stats]
    assert sum(entry.success.count for entry in counted) == 1
    assert sum(entry.fail.count for entry in counted) == 1


async def test_shared_memory_is_off_and_cuda_is_absent(plain, connect, shared):
    client = connect(plain[0])
    error = await refused(client.register_system_shared_memory("region", shared[1], 64))
    assert code_of(error) == "FAILED_PRECONDITION" and "switched off" in error.message()
    assert "/dev/shm" not in error.message()
    for call in (
        client.register_cuda_shared_memory("g", b"A" * 88, 0, 64),
        client.get_cuda_shared_memory_status(),
        client.unregister_cuda_shared_memory("g"),
    ):
        assert code_of(await refused(call)) == "UNIMPLEMENTED"
    await client.unregister_system_shared_memory()
    await client.unregister_cuda_shared_memory()
    extensions = (await client.get_server_metadata()).extensions
    assert "classification" in extensions and "system_shared_memory" not in extensions


async def test_limits_are_the_settings_and_refusals_are_counted(replica, gateway, connect):
    front = gateway(
        replica(),
        max_request_tensors=1,
        max_tensor_elements=8,
        max_parameter_chars=3,
        max_request_outputs=1,
    )
    client = connect(front)

    async def ask(x, **options):
        return await client.infer("sum", [tensor("x", x, "FP32")], **options)

    one, two = [wire.InferRequestedOutput("sum")], [wire.InferRequestedOutput(n) for n in "ab"]
    await ask(rows(2), request_id="abc", outputs=one)
    for x, options in (
        (rows(3), {}),
        (rows(1), {"request_id": "abcd"}),
        (rows(1), {"outputs": two}),
        (rows(1), {"parameters": {"p": "text"}}),
    ):
        error = await refused(ask(x, **options))
        assert code_of(error) == "INVALID_ARGUMENT" and "expected at most" in error.message()
    [model] = (await status_of(front)).models
    assert model.queued_requests == 0
    statistics = await client.get_inference_statistics("sum")
    assert statistics.model_stats[0].inference_stats.fail.count == 4


@pytest.mark.parametrize("name", ["\0", "../../etc/passwd", "\u202e\u00e9", "x" * 5000, ""])
async def test_names_of_models_are_told_harmlessly(plain, name):
    with pytest.raises(grpc.RpcError) as caught:
        await send(plain[0].address, service_pb2.ModelInferRequest(model_name=name))
    assert (caught.value.code().name, reason_of(caught.value)) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert caught.value.details().isprintable() and len(caught.value.details()) < 300
