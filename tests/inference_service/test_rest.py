"""A replica called alone over HTTP: Triton's client, generation, drain."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
import tritonclient.http as wire
import tritonclient.http.aio as triton

from tests.inference_service.served_replica import ServedReplica, request
from tests.inference_service.talker import HEARD, speak
from tests.rest.http import Client, ask, request_bytes

STREAM = "/v2/models/talker/generate_stream"


@pytest.fixture
async def spoken(store_url, line):
    line.publish(2.0)
    async with ServedReplica(store_url, http_port=0) as started:
        await started.wait_ready()
        yield started


@pytest.fixture
async def talker(store, store_url):
    speak(store, 1.0)
    async with ServedReplica(store_url, models="talker", http_port=0) as started:
        await started.wait_ready()
        HEARD.closed.clear()
        yield started


@pytest.mark.parametrize("binary", [True, False])
async def test_tritons_client_asks_a_replica(spoken, binary):
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    given = wire.InferInput("x", [2, 4], "FP32")
    given.set_data_from_numpy(x, binary_data=binary)
    wanted = wire.InferRequestedOutput("y", binary_data=binary)
    async with triton.InferenceServerClient(f"127.0.0.1:{spoken.replica.http.port}") as client:
        assert await client.is_server_ready()
        assert await client.is_model_ready("affine", "1")
        result = await client.infer("affine", [given], outputs=[wanted], model_version="1")
        [entry] = await client.get_model_repository_index()
        statistics = await client.get_inference_statistics("affine", "1")
    _, expected = await spoken.infer(x)
    np.testing.assert_array_equal(result.as_numpy("y"), expected)
    assert (entry["name"], entry["version"], entry["state"]) == ("affine", "1", "READY")
    assert statistics["model_stats"][0]["inference_count"] == 2


async def test_a_pinned_version_that_is_not_there_is_refused(spoken):
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0, 0]}]}
    path = "/v2/models/affine/versions/{}/infer"
    port = spoken.replica.http.port
    over_grpc, _ = await spoken.refusal(_pinned(9))
    answer = await ask(port, "POST", path.format(9), body)
    assert answer.json["code"] == over_grpc.name
    assert (await ask(port, "POST", path.format("x"), body)).status == 400
    assert (await ask(port, "POST", path.format(1), body)).status == 200


def _pinned(version: int):
    return request(np.zeros((1, 4), np.float32), version=str(version))


async def test_answers_of_a_generative_model_are_events(talker):
    port = talker.replica.http.port
    answer = await ask(port, "POST", STREAM, {"prompt": "hi", "count": 3})
    events = [json.loads(part[6:]) for part in answer.body.decode().split("\n\n")[:-1]]
    assert [(event["word"], event["n"]) for event in events] == [("1.1", 1), ("1.2", 2), ("1.3", 3)]
    assert {event["model_version"] for event in events} == {"1"}
    one = await ask(port, "POST", "/v2/models/talker/generate", {"prompt": "hi", "count": 1})
    assert (one.json["word"], one.json["n"]) == ("1.1", 1)
    many = await ask(port, "POST", "/v2/models/talker/generate", {"prompt": "hi", "count": 2})
    assert (many.status, many.reason) == (400, "NOT_ONE_ANSWER")
    unary = await ask(port, "POST", "/v2/models/talker/infer", _infer_body())
    assert (unary.status, unary.reason) == (501, "DECOUPLED_MODEL")


def _infer_body():
    return {
        "inputs": [
            {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["hi"]},
            {"name": "count", "shape": [1], "datatype": "INT32", "data": [1]},
        ]
    }


async def test_a_client_that_leaves_ends_its_generation(talker):
    async with Client(talker.replica.http.port) as client:
        body = json.dumps({"prompt": "endless", "count": -1}).encode()
        await client.send(request_bytes("POST", STREAM, body))
        assert b"1.1" in await client.reader.readuntil(b"\n\n")
    async with asyncio.timeout(10):
        while b"endless" not in HEARD.closed:  # noqa: ASYNC110 - another thread's news
            await asyncio.sleep(0.01)


async def test_what_a_model_raises_in_the_midst_is_an_event(talker):
    port = talker.replica.http.port
    answer = await ask(port, "POST", STREAM, {"prompt": "refuse", "count": 5})
    *words, error = [json.loads(part[6:]) for part in answer.body.decode().split("\n\n")[:-1]]
    assert [event["word"] for event in words] == ["1.1", "1.2"]
    assert (error["code"], error["reason"]) == ("INVALID_ARGUMENT", "TOO_TALKATIVE")
