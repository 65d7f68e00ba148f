"""ModelStreamInfer: many requests on a stream, errors inside it, models that answer many times."""

from __future__ import annotations

import queue
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from tests.conformance.target import message, refused, tensor

pytestmark = pytest.mark.system

WITHIN_S = 20


@contextmanager
def stream(client):
    """A queue of (result, error) pairs of a stream of Triton's client."""
    answers: queue.Queue = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    try:
        yield answers
    finally:
        client.stop_stream()


def fp32(number):
    return tensor("x", np.full((1, 4), number, np.float32), "FP32")


def count(n):
    return [tensor("n", np.array([n], np.int32), "INT32")]


def is_final(result):
    parameters = result.get_response().parameters
    return parameters["triton_final_response"].bool_param


def test_each_request_of_a_stream_is_answered_under_its_id(client):
    with stream(client) as answers:
        for number in range(40):
            client.async_stream_infer("identity-fp32", [fp32(number)], request_id=str(number))
        seen = {}
        for _ in range(40):
            result, error = answers.get(timeout=WITHIN_S)
            assert error is None
            assert is_final(result)
            seen[result.get_response().id] = result.as_numpy("y")[0, 0]
    assert seen == {str(number): number for number in range(40)}


def test_an_error_stays_inside_the_stream(client):
    with stream(client) as answers:
        client.async_stream_infer("nowhere", [fp32(1)], request_id="bad")
        result, error = answers.get(timeout=WITHIN_S)
        assert result is None
        assert "nowhere" in error.message()
        client.async_stream_infer("identity-fp32", [fp32(2)], request_id="good")
        result, error = answers.get(timeout=WITHIN_S)
        assert error is None
        assert result.as_numpy("y").tolist() == [[2] * 4]


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("empty", [False, True])
def test_a_decoupled_model_answers_many_times(client, n, empty):
    with stream(client) as answers:
        client.async_stream_infer(
            "count", count(n), request_id="c", enable_empty_final_response=empty
        )
        results = []
        while not results or not is_final(results[-1]):
            result, error = answers.get(timeout=WITHIN_S)
            assert error is None
            assert result.get_response().id == "c"
            results.append(result)
    last = results.pop() if empty else None
    assert [result.as_numpy("i")[0] for result in results] == list(range(n))
    if last is not None:
        assert not last.get_response().outputs


def test_a_decoupled_model_may_answer_nothing(client):
    with stream(client) as answers:
        client.async_stream_infer("count", count(0))
        result, error = answers.get(timeout=WITHIN_S)
    assert error is None
    assert is_final(result)
    assert not result.get_response().outputs


def test_a_decoupled_model_is_not_for_unary_calls(target):
    content = np.array([2], np.int32).tobytes()
    with target.stub() as stub, refused("UNIMPLEMENTED", "DECOUPLED_MODEL"):
        stub.ModelInfer(message("count", ("n", "INT32", [1], content)))


def test_requests_of_both_kinds_share_a_stream(client):
    with stream(client) as answers:
        client.async_stream_infer("count", count(3), request_id="c")
        client.async_stream_infer("identity-fp32", [fp32(5)], request_id="f")
        ids = [answers.get(timeout=WITHIN_S)[0].get_response().id for _ in range(4)]
    assert sorted(ids) == ["c", "c", "c", "f"]


async def test_streams_of_asyncio(target):
    async def requests():
        for number in range(10):
            yield {
                "model_name": "identity-fp32",
                "inputs": [fp32(number)],
                "request_id": str(number),
            }

    async with triton_aio.InferenceServerClient(target.address) as client:
        found = {}
        async for result, error in client.stream_infer(requests()):
            assert error is None
            found[result.get_response().id] = result.as_numpy("y")[0, 0]
    assert found == {str(number): number for number in range(10)}


def test_a_cancelled_stream_leaves_the_server_well(target):
    endless = message("count", ("n", "INT32", [1], np.array([2**31 - 1], np.int32).tobytes()))
    with target.stub() as stub:
        call = stub.ModelStreamInfer(iter([endless]))
        assert next(call).infer_response.model_name == "count"
        call.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            for _ in call:
                pass
    assert caught.value.code() is grpc.StatusCode.CANCELLED
    with triton.InferenceServerClient(target.address) as client:
        assert client.infer("identity-fp32", [fp32(3)]).as_numpy("y").tolist() == [[3] * 4]
