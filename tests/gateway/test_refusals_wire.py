"""Wrong input gets its status and a sentence that says what was expected."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from tests.gateway.calls import ask, code_of, reason_of, refused, rows, tensor


def request(**changes) -> service_pb2.ModelInferRequest:
    made = service_pb2.ModelInferRequest(model_name="sum", **changes)
    made.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    made.raw_input_contents.append(bytes(16))
    return made


def changed(change) -> service_pb2.ModelInferRequest:
    made = request()
    change(made)
    return made


def _set(path: str, value: object):
    def change(made) -> None:
        *parents, last = path.split(".")
        target = made
        for name in parents:
            target = target[int(name)] if name.isdigit() else getattr(target, name)
        setattr(target, last, value)

    return change


def _shape(*sizes: int):
    def change(made) -> None:
        made.inputs[0].shape[:] = sizes

    return change


def _raw(content: bytes):
    def change(made) -> None:
        made.raw_input_contents[0] = content

    return change


def _both(made) -> None:
    made.inputs[0].contents.fp32_contents.extend([0] * 4)


def _no_input(made) -> None:
    del made.inputs[:]
    del made.raw_input_contents[:]


def _twice(made) -> None:
    made.inputs.add().CopyFrom(made.inputs[0])
    made.raw_input_contents.append(bytes(16))


def _output(made) -> None:
    made.outputs.add(name="nope")


def _timeout(made) -> None:
    made.parameters["timeout"].string_param = "soon"


def _past(made) -> None:
    made.parameters["timeout"].int64_param = -1


def _channel(made) -> None:
    made.parameters["channel"].string_param = "../etc"


BAD = [
    (_set("inputs.0.name", "y"), "INVALID_ARGUMENT", "UNKNOWN_INPUT", "expected the inputs x"),
    (_set("inputs.0.datatype", "FP64"), "INVALID_ARGUMENT", "BAD_DATATYPE", "expected FP32"),
    (_shape(1, 5), "INVALID_ARGUMENT", "BAD_SHAPE", "expected [-1, 4]"),
    (_shape(-1, 4), "INVALID_ARGUMENT", "BAD_SHAPE", "expected [-1, 4]"),
    (_shape(2**40, 4), "INVALID_ARGUMENT", "TOO_MANY_ELEMENTS", "elements"),
    (_shape(65, 4), "INVALID_ARGUMENT", "BAD_BYTE_COUNT", "needs 1040"),
    (_raw(bytes(15)), "INVALID_ARGUMENT", "BAD_BYTE_COUNT", "needs 16"),
    (_both, "INVALID_ARGUMENT", "BAD_CONTENTS", "expected one of them"),
    (_no_input, "INVALID_ARGUMENT", "MISSING_INPUT", "expected the inputs x"),
    (_twice, "INVALID_ARGUMENT", "DUPLICATE_INPUT", "expected the inputs x"),
    (_output, "INVALID_ARGUMENT", "UNKNOWN_OUTPUT", "expected any of sum, copy"),
    (_timeout, "INVALID_ARGUMENT", "BAD_PARAMETER", "an integer"),
    (_past, "INVALID_ARGUMENT", "BAD_PARAMETER", "0 or more"),
    (_channel, "INVALID_ARGUMENT", "BAD_NAME", "channel"),
    (_set("model_version", "01"), "INVALID_ARGUMENT", "BAD_VERSION", "positive decimal"),
    (
        _set("model_name", "nope"),
        "NOT_FOUND",
        "MODEL_NOT_FOUND",
        "known models: classes, count, pad, pair, seq",
    ),
]


async def send(address: str, content: bytes) -> bytes:
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        return await call(content, timeout=10)


@pytest.mark.parametrize(("change", "code", "reason", "sentence"), BAD)
async def test_bad_input(plain, change, code, reason, sentence):
    with pytest.raises(grpc.RpcError) as caught:
        await send(plain[0].address, changed(change).SerializeToString())
    error = caught.value
    assert (error.code().name, reason_of(error)) == (code, reason)
    assert sentence in error.details()


async def test_what_is_no_message_at_all(plain):
    with pytest.raises(grpc.RpcError) as caught:
        await send(plain[0].address, b"\xff\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_too_many_rows(plain, connect):
    error = await refused(ask(connect(plain[0]), rows(65)))
    assert code_of(error) == "INVALID_ARGUMENT"
    assert "at most 64" in error.message()


async def test_rows_that_differ(plain, connect):
    inputs = [
        tensor("a", np.ones((2, 2), np.float32), "FP32"),
        tensor("b", np.ones((3, 1), np.int64), "INT64"),
    ]
    error = await refused(connect(plain[0]).infer("pair", inputs))
    assert code_of(error) == "INVALID_ARGUMENT" and "3 rows" in error.message()


async def test_descriptions_of_unknown_models_and_versions(plain, connect):
    client = connect(plain[0])
    for call in (client.get_model_metadata, client.get_model_config):
        assert code_of(await refused(call("nope"))) == "NOT_FOUND"
        error = await refused(call("sum", "9"))
        assert code_of(error) == "NOT_FOUND" and "loaded versions: 1" in error.message()
    assert code_of(await refused(client.get_inference_statistics("nope"))) == "NOT_FOUND"


async def test_neighbours_of_a_poisoned_row_are_answered(replica, gateway, connect):
    fake = replica("--alpha-s", "0.02")
    client = connect(gateway(fake))
    calls = [ask(client, rows(1, 666.0 if number == 9 else number)) for number in range(20)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = {at: result for at, result in enumerate(results) if isinstance(result, Exception)}
    assert list(errors) == [9]
    assert code_of(errors[9]) == "INVALID_ARGUMENT"
    assert "cannot be computed" in errors[9].message()


async def test_poison_without_end_never_fails_a_neighbour(replica, gateway, connect):
    """More poisoned batches than the retry budget has tokens."""
    client = connect(gateway(replica("--alpha-s", "0.002"), max_batch_size=4))
    for _ in range(8):
        values = [666.0 if number % 3 == 0 else float(number) for number in range(60)]
        calls = [ask(client, rows(1, value)) for value in values]
        results = await asyncio.gather(*calls, return_exceptions=True)
        failed = [at for at, result in enumerate(results) if isinstance(result, Exception)]
        assert failed == list(range(0, 60, 3))
        assert {code_of(results[at]) for at in failed} == {"INVALID_ARGUMENT"}


async def test_a_foreign_servers_poison_never_becomes_internal(replica, gateway, connect):
    """Its stream tells no code; asked alone, it answers INTERNAL, which callers are not told."""
    fake = replica("--alpha-s", "0.02", "--no-codes", "--poison", "INTERNAL")
    client = connect(gateway(fake))
    calls = [ask(client, rows(1, 666.0 if number == 3 else number)) for number in range(8)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = {at: result for at, result in enumerate(results) if isinstance(result, Exception)}
    assert {at: code_of(error) for at, error in errors.items()} == {3: "UNAVAILABLE"}


async def test_an_error_without_an_id_finds_its_request(replica, gateway, connect):
    fake = replica("--alpha-s", "0.02", "--no-codes", "--no-error-id")
    client = connect(gateway(fake))
    calls = [ask(client, rows(1, 666.0 if number == 3 else number)) for number in range(8)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [code_of(r) for r in results if isinstance(r, Exception)] == ["INVALID_ARGUMENT"]


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_damaged_messages_never_become_unknown_or_internal(plain, damage):
    content = bytearray(request(id="r", model_version="1").SerializeToString())
    for at, value in damage:
        content[at % len(content)] = value
    try:
        asyncio.run(send(plain[0].address, bytes(content)))
    except grpc.RpcError as error:
        codes = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"}
        assert error.code().name in codes, error.details()
