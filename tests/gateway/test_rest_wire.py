"""Triton's HTTP clients against a real gateway, beside the same questions over gRPC."""

from __future__ import annotations

import asyncio
import json
import signal
import warnings

import numpy as np
import pytest
import tritonclient.http as wire
import tritonclient.http.aio as triton_http
from tritonclient.utils import InferenceServerException

from tests.gateway import calls
from tests.gateway.calls import refused, tensor, until_queued
from tests.gateway.conftest import ALL_MODELS, start_gateway, start_replica
from tests.rest.http import INFER, ONE_ROW, Client, ask, request_bytes


@pytest.fixture(scope="module")
def spoken():
    """A gateway with an HTTP port over a replica with every model."""
    replica = start_replica("--models", ALL_MODELS)
    gateway = start_gateway(replica.address, http_port=0)
    yield gateway
    gateway.stop()
    replica.stop()


@pytest.fixture
async def client(spoken):
    async with triton_http.InferenceServerClient(address(spoken)) as opened:
        yield opened


def address(process) -> str:
    return f"127.0.0.1:{process.serving['http_port']}"


def given(name: str, array: np.ndarray, datatype: str, *, binary: bool = True) -> wire.InferInput:
    made = wire.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


async def test_tritons_client_learns_about_server_and_models(client, spoken):
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("sum")
    assert not await client.is_model_ready("nobody")
    assert not await client.is_model_ready("sum", "99")
    assert "statistics" in (await client.get_server_metadata())["extensions"]
    metadata = await client.get_model_metadata("sum")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    config = await client.get_model_config("sum")
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (64, [4])
    await client.infer("sum", [given("x", ROWS, "FP32")])
    statistics = await client.get_inference_statistics("sum")
    # What others were refused before any version had answered is in an entry without one.
    [model] = [
        one for one in statistics["model_stats"] if (one["name"], one["version"]) == ("sum", "1")
    ]
    assert model["inference_stats"]["success"]["count"] >= 1


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
async def test_tritons_client_infers(client, binary_in, binary_out, compression):
    outputs = [wire.InferRequestedOutput(name, binary_data=binary_out) for name in ("sum", "copy")]
    result = await client.infer(
        "sum",
        [given("x", ROWS, "FP32", binary=binary_in)],
        outputs=outputs,
        request_id="mine",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
        timeout=5_000_000,
        priority=1,
        parameters={"unknown": "accepted"},
    )
    np.testing.assert_array_equal(result.as_numpy("sum"), ROWS.sum(axis=1, keepdims=True))
    np.testing.assert_array_equal(result.as_numpy("copy"), ROWS)
    assert (result.get_response()["id"], result.get_response()["model_version"]) == ("mine", "1")


@pytest.mark.parametrize("binary", [True, False])
async def test_several_inputs_and_texts(client, binary):
    ones, threes = np.ones((2, 2), np.float32), np.full((2, 1), 3, np.int64)
    inputs = [given("a", ones, "FP32", binary=binary), given("b", threes, "INT64")]
    assert (await client.infer("pair", inputs)).as_numpy("sum").tolist() == [[5.0], [5.0]]
    texts = np.array([["grün".encode()], [b""]], dtype=object)
    output = wire.InferRequestedOutput("upper", binary_data=binary)
    result = await client.infer(
        "text", [given("t", texts, "BYTES", binary=binary)], outputs=[output]
    )
    found = result.as_numpy("upper").reshape(-1).tolist()
    # bytes.upper leaves what is not ASCII alone.
    expected = ["GRüN", ""]
    assert found == ([text.encode() for text in expected] if binary else expected)


async def test_an_error_reads_like_that_of_grpc(client, spoken, connect):
    wrong = np.ones((1, 3), np.float32)
    with pytest.raises(InferenceServerException) as caught:
        await client.infer("sum", [given("x", wrong, "FP32")])
    assert caught.value.status() == "400"
    over_grpc = await refused(connect(spoken).infer("sum", [tensor("x", wrong, "FP32")]))
    assert caught.value.message() == over_grpc.message()
    with pytest.raises(InferenceServerException) as caught:
        await client.infer("nobody", [given("x", ROWS, "FP32")])
    assert caught.value.status() == "404"


async def test_what_a_data_port_may_not_change_is_forbidden(client):
    with pytest.raises(InferenceServerException) as caught:
        await client.update_log_settings({"log_verbose_level": 1})
    assert caught.value.status() == "403"
    assert "log_info" in await client.get_log_settings()
    assert "trace_level" in await client.get_trace_settings()


def test_tritons_blocking_client(spoken):
    with warnings.catch_warnings():
        # gevent's, which this client stands on.
        warnings.simplefilter("ignore")
        blocking = wire.InferenceServerClient(address(spoken), concurrency=4)
    try:
        assert blocking.is_server_ready()
        pending = [blocking.async_infer("sum", [given("x", ROWS, "FP32")]) for _ in range(4)]
        for request in pending:
            np.testing.assert_array_equal(request.get_result().as_numpy("copy"), ROWS)
        assert blocking.infer("sum", [given("x", ROWS, "FP32")]).as_numpy("sum").tolist() == [
            [6.0],
            [22.0],
        ]
    finally:
        blocking.close()


async def test_generate_answers_for_an_ordinary_model(spoken):
    port = spoken.serving["http_port"]
    answer = await ask(port, "POST", "/v2/models/text/generate", {"t": "hello"})
    assert answer.json == {"model_name": "text", "model_version": "1", "upper": "HELLO"}
    stream = await ask(port, "POST", "/v2/models/text/generate_stream", {"t": "hello"})
    assert stream.body == b"data: " + answer.body + b"\n\n"


async def test_a_deadline_ends_a_request(replica, gateway):
    slow = replica("--alpha-s", "30")
    port = gateway(slow, http_port=0).serving["http_port"]
    answer = await ask(port, "POST", INFER, ONE_ROW, {"headrace-timeout-ms": "50"})
    assert (answer.status, answer.json["code"]) == (504, "DEADLINE_EXCEEDED")
    body = ONE_ROW | {"parameters": {"timeout": 50_000}}
    assert (await ask(port, "POST", INFER, body)).status == 504


async def test_a_client_that_goes_away_gives_its_place_back(replica, gateway):
    slow = replica("--alpha-s", "30")
    process = gateway(slow, http_port=0, max_inflight_batches=1)
    port = process.serving["http_port"]
    body = json.dumps(ONE_ROW).encode()
    async with Client(port) as first, Client(port) as second:
        await first.send(request_bytes("POST", INFER, body))
        await calls.until(lambda: _inflight(process))
        await second.send(request_bytes("POST", INFER, body))
        await until_queued(process, 1)
        second.writer.close()
        await until_queued(process, 0)


async def _inflight(process) -> bool:
    status = await calls.status_of(process)
    return sum(endpoint.inflight_batches for endpoint in status.endpoints) == 1


async def test_sigterm_finishes_what_runs(replica, gateway):
    slow = replica("--alpha-s", "0.5")
    process = gateway(slow, http_port=0)
    async with Client(process.serving["http_port"]) as client:
        await client.send(request_bytes("POST", INFER, json.dumps(ONE_ROW).encode()))
        await calls.until(lambda: _inflight(process))
        process.send(signal.SIGTERM)
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.closed()
    assert await asyncio.to_thread(process.wait) == 0


async def test_a_decoupled_model_answers_in_events(spoken):
    port = spoken.serving["http_port"]
    answer = await ask(port, "POST", "/v2/models/count/generate_stream", {"n": 3, "id": "q"})
    events = [json.loads(part[6:]) for part in answer.body.decode().split("\n\n")[:-1]]
    assert [(event["id"], event["token"]) for event in events] == [("q", 0), ("q", 1), ("q", 2)]
    failing = await ask(port, "POST", "/v2/models/count/generate_stream", {"n": -1})
    *told, error = failing.body.decode().split("\n\n")[:-1]
    assert len(told) == 1
    assert "error" in json.loads(error[6:])
    unary = await ask(
        port,
        "POST",
        "/v2/models/count/infer",
        {"inputs": [{"name": "n", "shape": [1, 1], "datatype": "INT32", "data": [1]}]},
    )
    assert (unary.status, unary.reason) == (501, "DECOUPLED_MODEL")
