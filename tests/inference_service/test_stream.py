"""Streams: many in flight, errors inside, ends, and callers that go away."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest

from chassis.infer import decoded_outputs
from tests.inference_service.line import GATE, WAITING, expected
from tests.inference_service.served_replica import request

ONE = np.ones((1, 4), dtype=np.float32)
WAITS = np.full((1, 4), 7, dtype=np.float32)
RAISES = np.full((1, 4), 13, dtype=np.float32)


async def answers(call, count):
    return {
        answer.infer_response.id: answer for answer in [await call.read() for _ in range(count)]
    }


def refusal(answer) -> tuple[str, str]:
    parameters = answer.infer_response.parameters
    return parameters["headrace_code"].string_param, parameters["headrace_reason"].string_param


async def test_many_in_flight_are_matched_by_id(replica):
    call = replica.oip.ModelStreamInfer()
    rows = {str(n): np.full((1 + n % 8, 4), n, np.float32) for n in range(100)}
    for name, x in rows.items():
        await call.write(request(x, request_id=name))
    found = await answers(call, 100)
    assert found.keys() == rows.keys()
    for name, x in rows.items():
        reply = found[name].infer_response
        assert (reply.model_name, reply.model_version) == ("affine", "1")
        np.testing.assert_array_equal(decoded_outputs(reply)["y"], expected(1.0, x))
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_an_error_is_an_answer_and_the_stream_goes_on(moody):
    await moody.infer(ONE)
    call = moody.oip.ModelStreamInfer()
    for made in (
        request(ONE, request_id="good"),
        request(ONE, model="other", request_id="model"),
        request(ONE[:, :2], request_id="shape"),
        request(RAISES, request_id="raises"),
        request(ONE, version="8", request_id="version"),
        request(ONE, channel="canary", request_id="channel"),
        request(ONE, request_id="good too"),
    ):
        await call.write(made)
    found = await answers(call, 7)
    assert not found["good"].error_message
    assert not found["good too"].error_message
    assert found["good too"].infer_response.model_version == "1"
    assert refusal(found["model"]) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert found["shape"].error_message == (
        "input 'x' has shape [1, 2]; expected [-1, 4] (-1 is any size, at least 1 of the first)"
    )
    assert refusal(found["shape"]) == ("INVALID_ARGUMENT", "BAD_SHAPE")
    assert refusal(found["raises"]) == ("INVALID_ARGUMENT", "MODEL_REFUSED_INPUT")
    assert "secret" not in found["raises"].error_message
    assert refusal(found["version"]) == ("NOT_FOUND", "VERSION_NOT_FOUND")
    assert refusal(found["channel"]) == ("NOT_FOUND", "CHANNEL_NOT_SERVED")
    call.cancel()


async def test_half_closing_waits_for_what_is_in_flight(moody):
    call = moody.oip.ModelStreamInfer()
    await call.write(request(WAITS, request_id="slow"))
    await call.done_writing()
    await asyncio.to_thread(WAITING.wait, 10)
    GATE.set()
    assert (await call.read()).infer_response.id == "slow"
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_without_a_request_ends(replica):
    call = replica.oip.ModelStreamInfer()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_a_malformed_message_ends_the_stream_after_its_answers(moody):
    call = moody.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
    await call.write(request(WAITS).SerializeToString())
    await call.write(b"\xff\xff\xff")
    await asyncio.to_thread(WAITING.wait, 10)
    GATE.set()
    assert await call.read() is not grpc.aio.EOF
    with pytest.raises(grpc.aio.AioRpcError):
        await call.read()
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await moody.infer(ONE))[0] == 1


async def test_a_caller_that_goes_away_leaves_nothing_behind(moody):
    call = moody.oip.ModelStreamInfer()
    await call.write(request(WAITS, request_id="slow"))
    await asyncio.to_thread(WAITING.wait, 10)
    for n in range(20):
        await call.write(request(ONE, request_id=str(n)))
    await moody.wait(lambda _: moody.replica.admission.requests == 21)
    call.cancel()
    await moody.wait(lambda _: moody.replica.admission.requests == 0)
    GATE.set()
    await moody.infer(ONE)
    assert moody.replica.admission.bytes == 0
    assert not moody.replica._servicer._streams


async def test_streams_share_the_device(replica):
    async def one(tag: str) -> None:
        call = replica.oip.ModelStreamInfer()
        for n in range(20):
            await call.write(request(ONE * n, request_id=f"{tag}-{n}"))
        found = await answers(call, 20)
        assert set(found) == {f"{tag}-{n}" for n in range(20)}
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF

    await asyncio.gather(*(one(str(tag)) for tag in range(5)))


async def test_a_timeout_counts_from_the_message_not_from_the_stream(moody):
    call = moody.oip.ModelStreamInfer()
    await call.write(request(WAITS, request_id="slow"))
    await asyncio.to_thread(WAITING.wait, 10)
    await call.write(request(ONE, request_id="late", timeout=1))
    await call.write(request(ONE, request_id="patient", timeout=20_000_000))
    await moody.wait(lambda _: moody.replica.admission.requests == 3)
    GATE.set()
    found = await answers(call, 3)
    assert refusal(found["late"]) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert not found["patient"].error_message
    call.cancel()
