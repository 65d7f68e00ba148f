"""The same over HTTP, with Triton's HTTP clients: every datatype in both forms, every endpoint."""

from __future__ import annotations

import json
from uuid import uuid4

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, shared_memory

from tests.conformance.datatypes import same, values
from tests.conformance.models import TORCH_DATATYPES, all_models
from tests.conformance.target import MEMORY_PREFIX

pytestmark = pytest.mark.system

# JSON has no halves; its numbers have no NaN.
JSON_DATATYPES = tuple(kind for kind in TORCH_DATATYPES if kind not in ("FP16", "BF16"))


@pytest.fixture
def client(target):
    with triton.InferenceServerClient(target.http_address) as client:
        yield client


def tensor(name, array, datatype, *, binary=True):
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def identity(datatype):
    return "text" if datatype == "BYTES" else f"identity-{datatype.lower()}"


def test_health_and_descriptions(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mix")
    assert client.is_model_ready("mix", "1")
    assert not client.is_model_ready("nowhere")
    assert "statistics" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("mix")["inputs"][0]["shape"] == [-1, 4]
    assert client.get_model_config("mix")["max_batch_size"] == 8
    client.infer("mix", mixed())
    stats = client.get_inference_statistics("mix", "1")["model_stats"]
    assert stats[0]["inference_count"] >= 2


@pytest.mark.parametrize("datatype", [*TORCH_DATATYPES, "BYTES"])
def test_binary_there_and_back(client, datatype):
    x = values(datatype)
    answer = client.infer(identity(datatype), [tensor("x", x, datatype)])
    assert same(answer.as_numpy("y"), x)


@pytest.mark.parametrize("datatype", JSON_DATATYPES)
def test_json_there_and_back(client, datatype):
    x = values(datatype)
    if datatype in ("FP32", "FP64"):
        x = np.where(np.isfinite(x), x, 0).astype(x.dtype)
    asked = [triton.InferRequestedOutput("y", binary_data=False)]
    sent = [tensor("x", x, datatype, binary=False)]
    answer = client.infer(identity(datatype), sent, outputs=asked)
    assert "data" in answer.get_output("y")
    assert same(answer.as_numpy("y"), x)


def test_texts_as_json(client):
    x = np.array([["a", "\u00e9\u4e16", "", "{}"]], np.object_)
    asked = [triton.InferRequestedOutput("y", binary_data=False)]
    answer = client.infer("text", [tensor("x", x, "BYTES", binary=False)], outputs=asked)
    assert answer.get_output("y")["data"] == ["a", "\u00e9\u4e16", "", "{}"]


def mixed():
    a, b = np.ones((2, 4), np.float32), np.array([1, 2], np.int32)
    return [tensor("a", a, "FP32"), tensor("b", b, "INT32", binary=False)]


def test_outputs_ids_versions_parameters(client):
    asked = [triton.InferRequestedOutput("twice"), triton.InferRequestedOutput("sum")]
    answer = client.infer(
        "mix",
        mixed(),
        outputs=asked,
        request_id="7",
        model_version="1",
        priority=1,
        timeout=20_000_000,
        parameters={"anything": "a"},
    )
    response = answer.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("7", "mix", "1")
    assert [output["name"] for output in response["outputs"]] == ["twice", "sum"]
    assert answer.as_numpy("twice").tolist() == [2, 4]


def test_classes(client):
    asked = [triton.InferRequestedOutput("scores", class_count=1)]
    x = np.array([[1, 3, 2]], np.float32)
    answer = client.infer("classes", [tensor("x", x, "FP32")], outputs=asked)
    assert answer.as_numpy("scores").tolist() == [[b"3.000000:1:dog"]]


def test_a_sequence(client):
    totals = []
    for number in range(1, 4):
        x = np.array([[number]], np.int64)
        answer = client.infer(
            "tally",
            [tensor("x", x, "INT64")],
            sequence_id=91,
            sequence_start=number == 1,
            sequence_end=number == 3,
        )
        totals.append(int(answer.as_numpy("total")[0, 0]))
    assert totals == [1, 3, 6]


@pytest.mark.parametrize("request_side", ["gzip", "deflate", None])
@pytest.mark.parametrize("response_side", ["gzip", "deflate", None])
def test_compression(client, request_side, response_side):
    answer = client.infer(
        "mix",
        mixed(),
        request_compression_algorithm=request_side,
        response_compression_algorithm=response_side,
    )
    assert answer.as_numpy("twice").tolist() == [2, 4]


def test_calls_at_once(target):
    with triton.InferenceServerClient(target.http_address, concurrency=8) as client:
        calls = [client.async_infer("mix", mixed()) for _ in range(32)]
        assert all(call.get_result().as_numpy("twice").tolist() == [2, 4] for call in calls)


async def test_calls_of_asyncio(target):
    async with triton_aio.InferenceServerClient(target.http_address) as client:
        assert await client.is_server_live()
        answer = await client.infer("mix", mixed())
        assert answer.as_numpy("twice").tolist() == [2, 4]


def test_control_and_settings(client):
    names = {model["name"] for model in client.get_model_repository_index()}
    assert names == {model.name for model in all_models()}
    client.load_model("classes")
    assert client.is_model_ready("classes")
    assert "trace_level" in client.get_trace_settings("mix")
    assert "log_info" in client.get_log_settings()


def test_shared_memory(client):
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    name = f"{MEMORY_PREFIX}{uuid4().hex}"
    handle = shared_memory.create_shared_memory_region(name, f"/{name}", 64)
    try:
        shared_memory.set_shared_memory_region(handle, [x])
        client.register_system_shared_memory(name, f"/{name}", 64)
        assert [found["name"] for found in client.get_system_shared_memory_status(name)] == [name]
        sent = triton.InferInput("x", [2, 4], "FP32")
        sent.set_shared_memory(name, 32)
        asked = triton.InferRequestedOutput("y")
        asked.set_shared_memory(name, 32, offset=32)
        client.infer("identity-fp32", [sent], outputs=[asked])
        found = shared_memory.get_contents_as_numpy(handle, np.float32, [2, 4], offset=32)
        assert np.array_equal(found, x)
        client.unregister_system_shared_memory(name)
    finally:
        shared_memory.destroy_shared_memory_region(handle)


@pytest.mark.parametrize(
    ("model", "version", "status"),
    [("nowhere", "", "404"), ("mix", "99", ("404", "400", "412")), ("mix", "v1", "400")],
)
def test_errors(client, model, version, status):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, mixed(), model_version=version)
    assert caught.value.status() in status
    assert caught.value.message()


def test_the_interface_is_described(client):
    found = client._get(request_uri="openapi.json", headers=None, query_params=None)
    assert json.loads(found.read())["openapi"].startswith("3.1")
