"""ModelInfer as clients send it: outputs, ids, versions, parameters, ranks, every calling style."""

from __future__ import annotations

import queue

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from tests.conformance.target import message, refusal_of, refused, tensor

pytestmark = pytest.mark.system

A = np.arange(8, dtype=np.float32).reshape(2, 4)
B = np.array([10, 20], np.int32)
MIXED = {
    "sum": A + B[:, None],
    "twice": B * 2,
    "wide": A.astype(np.int64).reshape(2, 2, 2),
}


def mixed():
    return [tensor("a", A, "FP32"), tensor("b", B, "INT32")]


def check(answer, outputs=tuple(MIXED)):
    assert [output.name for output in answer.get_response().outputs] == list(outputs)
    for name in outputs:
        assert np.array_equal(answer.as_numpy(name), MIXED[name]), name


@pytest.mark.parametrize(
    "outputs",
    [(), ("sum",), ("wide",), ("twice", "sum"), ("wide", "twice", "sum")],
    ids=lambda names: "-".join(names) or "all",
)
def test_outputs_come_as_asked(client, outputs):
    asked = [triton.InferRequestedOutput(name) for name in outputs]
    check(client.infer("mix", mixed(), outputs=asked or None), outputs or tuple(MIXED))


def test_inputs_in_any_order(client):
    check(client.infer("mix", mixed()[::-1]))


@pytest.mark.parametrize("request_id", ["", "7", "\u00e9\u4e16", "x" * 1000])
def test_the_id_is_echoed(client, request_id):
    response = client.infer("mix", mixed(), request_id=request_id).get_response()
    assert (response.id, response.model_name) == (request_id, "mix")


@pytest.mark.parametrize("version", ["", "1"])
def test_the_version_that_answered_is_named(client, version):
    assert client.infer("mix", mixed(), model_version=version).get_response().model_version == "1"


@pytest.mark.parametrize(
    "parameters",
    [
        {"text": "a"},
        {"flag": True},
        {"count": 7},
        {"a.b": "c", "d": False, "\u00e9": 2**40},
        {"triton_enable_empty_final_response": True},
    ],
    ids=str,
)
def test_unknown_parameters_are_accepted(client, parameters):
    if "triton_enable_empty_final_response" in parameters:
        # Triton's client reserves the name; perf_analyzer sets it itself.
        request = raw_mixed()
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        reply = client._client_stub.ModelInfer(request)
        assert reply.model_version == "1"
    else:
        check(client.infer("mix", mixed(), parameters=parameters))


def raw_mixed(**fields):
    return message(
        "mix",
        ("a", "FP32", [2, 4], A.tobytes()),
        ("b", "INT32", [2], B.tobytes()),
        **fields,
    )


@pytest.mark.parametrize("kind", ["double_param", "uint64_param"])
def test_parameters_of_every_kind(target, kind):
    request = raw_mixed()
    setattr(request.parameters["anything"], kind, 3)
    setattr(request.inputs[0].parameters["anything"], kind, 3)
    with target.stub() as stub:
        assert stub.ModelInfer(request).model_version == "1"


@pytest.mark.parametrize("priority", [0, 1, 2, 3, 99, 2**64 - 1])
def test_every_priority_is_answered(client, priority):
    check(client.infer("mix", mixed(), priority=priority))


def test_a_generous_timeout_changes_nothing(client):
    check(client.infer("mix", mixed(), timeout=20_000_000, client_timeout=20))


def test_a_timeout_too_short_ends_as_deadline_exceeded(target):
    request = raw_mixed()
    request.parameters["timeout"].int64_param = 1
    with target.stub() as stub, pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    refusal = refusal_of(caught.value)
    assert refusal.code == "DEADLINE_EXCEEDED"
    # A gateway that knows how long a batch takes need not wait for the end.
    assert refusal.reason in ("DEADLINE_EXCEEDED", "DEADLINE_TOO_SHORT")


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_requests(client, compression):
    check(client.infer("mix", mixed(), compression_algorithm=compression))


def test_without_a_batch_dimension(client):
    x, factor = np.array([1, 2, 3], np.float32), np.array(3, np.float32)
    answer = client.infer("flat", [tensor("x", x, "FP32"), tensor("factor", factor, "FP32")])
    assert np.array_equal(answer.as_numpy("y"), x * 3)


@pytest.mark.parametrize("width", [1, 3, 8, 100])
def test_a_dimension_of_any_size(client, width):
    x = np.arange(2 * width, dtype=np.float32).reshape(2, width)
    answer = client.infer("ragged", [tensor("x", x, "FP32")])
    assert np.array_equal(answer.as_numpy("y"), x)
    assert np.array_equal(answer.as_numpy("total"), x.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("width", [1, 4, 5, 8, 11])
def test_sizes_filled_up_and_cut_back(client, width):
    """Widths up to 4 and to 8 fill up with 100 and share batches; 11 fits no bucket."""
    x = np.arange(2 * width, dtype=np.float32).reshape(2, width)
    answer = client.infer("padded", [tensor("x", x, "FP32")])
    assert np.array_equal(answer.as_numpy("y"), x)
    filled = next((size for size in (4, 8) if width <= size), width)
    total = x.sum(axis=1, keepdims=True) + 100 * (filled - width)
    assert np.array_equal(answer.as_numpy("total"), total)


def test_calls_with_a_callback(client):
    answers: queue.Queue = queue.Queue()
    for number in range(50):
        client.async_infer(
            "mix",
            mixed(),
            callback=lambda result, error: answers.put((result, error)),
            request_id=str(number),
        )
    seen = set()
    for _ in range(50):
        result, error = answers.get(timeout=20)
        assert error is None
        check(result)
        seen.add(result.get_response().id)
    assert seen == {str(number) for number in range(50)}


async def test_calls_of_asyncio(target):
    async with triton_aio.InferenceServerClient(target.address) as client:
        assert await client.is_server_live()
        assert await client.is_model_ready("mix")
        assert (await client.get_model_metadata("mix")).name == "mix"
        check(await client.infer("mix", mixed()))


@pytest.mark.parametrize("version", ["0", "01", "v1", "-1", "1.0", "9" * 40, " 1"])
def test_a_version_that_is_no_number_is_refused(target, version):
    with (
        target.stub() as stub,
        refused("INVALID_ARGUMENT", "BAD_VERSION", "model_version"),
    ):
        stub.ModelInfer(raw_mixed(model_version=version))


def test_a_version_that_is_not_loaded_is_no_other(target):
    with target.stub() as stub, pytest.raises(Exception, match="99") as caught:
        stub.ModelInfer(raw_mixed(model_version="99"))
    assert caught.value.code().name in ("NOT_FOUND", "FAILED_PRECONDITION")
