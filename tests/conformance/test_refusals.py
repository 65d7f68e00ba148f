"""Every wrong request: its status, ErrorInfo reason and sentence, the same at both servers."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from tests.conformance.target import message, refusal_of, refused

pytestmark = pytest.mark.system

X = np.ones((1, 4), np.float32).tobytes()


def fp32(*inputs, **fields):
    return message("identity-fp32", *inputs, **fields)


def both_contents():
    request = fp32(("x", "FP32", [1, 4], X))
    request.inputs[0].contents.fp32_contents.extend([1, 1, 1, 1])
    return request


def with_outputs(*names):
    request = fp32(("x", "FP32", [1, 4], X))
    for name in names:
        request.outputs.add(name=name)
    return request


def with_timeout(field, value):
    request = fp32(("x", "FP32", [1, 4], X))
    setattr(request.parameters["timeout"], field, value)
    return request


BAD_TIMEOUT = "BAD_PARAMETER"

WRONG = {
    "no model": (message("nowhere", ("x", "FP32", [1, 4], X)), "NOT_FOUND", "MODEL_NOT_FOUND"),
    "empty model": (message("", ("x", "FP32", [1, 4], X)), "NOT_FOUND", "MODEL_NOT_FOUND"),
    "traversal": (message("../../etc", ("x", "FP32", [1, 4], X)), "NOT_FOUND", "MODEL_NOT_FOUND"),
    "NUL": (message("a\0b", ("x", "FP32", [1, 4], X)), "NOT_FOUND", "MODEL_NOT_FOUND"),
    "long name": (message("a" * 9999, ("x", "FP32", [1, 4], X)), "NOT_FOUND", "MODEL_NOT_FOUND"),
    "no input": (fp32(), "INVALID_ARGUMENT", "MISSING_INPUT"),
    "unknown input": (fp32(("z", "FP32", [1, 4], X)), "INVALID_ARGUMENT", "UNKNOWN_INPUT"),
    "two inputs of one name": (
        fp32(("x", "FP32", [1, 4], X), ("x", "FP32", [1, 4], X)),
        "INVALID_ARGUMENT",
        "DUPLICATE_INPUT",
    ),
    "other datatype": (fp32(("x", "INT32", [1, 4], X)), "INVALID_ARGUMENT", "BAD_DATATYPE"),
    "no datatype": (fp32(("x", "", [1, 4], X)), "INVALID_ARGUMENT", "BAD_DATATYPE"),
    "negative dim": (fp32(("x", "FP32", [-1, 4], X)), "INVALID_ARGUMENT", "BAD_SHAPE"),
    "no rows": (fp32(("x", "FP32", [0, 4], b"")), "INVALID_ARGUMENT", "BAD_SHAPE"),
    "no dims": (fp32(("x", "FP32", [], X)), "INVALID_ARGUMENT", "BAD_SHAPE"),
    "overflow": (
        fp32(("x", "FP32", [2**62, 4], X)),
        "INVALID_ARGUMENT",
        ("TOO_MANY_ROWS", "BAD_SHAPE", "BAD_BYTE_COUNT", "TOO_MANY_ELEMENTS"),
    ),
    "a byte less": (fp32(("x", "FP32", [1, 4], X[:-1])), "INVALID_ARGUMENT", "BAD_BYTE_COUNT"),
    "a byte more": (fp32(("x", "FP32", [1, 4], X + b"\0")), "INVALID_ARGUMENT", "BAD_BYTE_COUNT"),
    "no bytes": (fp32(("x", "FP32", [1, 4], b"")), "INVALID_ARGUMENT", "BAD_BYTE_COUNT"),
    "too many rows": (
        fp32(("x", "FP32", [9, 4], X * 9)),
        "INVALID_ARGUMENT",
        "TOO_MANY_ROWS",
    ),
    "both contents": (both_contents(), "INVALID_ARGUMENT", "BAD_CONTENTS"),
    "raw contents too many": (
        fp32(("x", "FP32", [1, 4], X), raw_input_contents=[X]),
        "INVALID_ARGUMENT",
        "BAD_CONTENTS",
    ),
    "unknown output": (with_outputs("z"), "INVALID_ARGUMENT", "UNKNOWN_OUTPUT"),
    "negative timeout": (with_timeout("int64_param", -1), "INVALID_ARGUMENT", BAD_TIMEOUT),
    "text timeout": (with_timeout("string_param", "1 s"), "INVALID_ARGUMENT", BAD_TIMEOUT),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_refused_with_its_reason(target, name):
    request, code, reason = WRONG[name]
    reasons = (reason,) if isinstance(reason, str) else reason
    with target.stub() as stub, pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    refusal = refusal_of(caught.value)
    assert refusal.code == code, refusal
    assert refusal.reason in reasons, refusal
    assert refusal.sentence
    assert not any(word in refusal.sentence for word in ("Traceback", ".py", "/work", "numpy"))


def test_a_message_that_is_no_protobuf_is_invalid(target):
    with grpc.insecure_channel(target.address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with refused("INVALID_ARGUMENT", "MALFORMED_MESSAGE"):
            call(b"\xff\xff\xff")


def test_an_rpc_that_is_not_the_protocols_is_unimplemented(target):
    with grpc.insecure_channel(target.address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/Nothing")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_one_poisoned_request_of_a_batch_fails_alone(target):
    """Eight at once, so that they share batches; the table of the model has ten rows."""

    def asked(index):
        content = np.array([index], np.int64).tobytes()
        return message("lookup", ("index", "INT64", [1], content))

    poisoned = {5, 17, 29}
    with target.stub() as stub:
        calls = {
            number: stub.ModelInfer.future(asked(99 if number in poisoned else number % 10))
            for number in range(40)
        }
        for number, call in calls.items():
            if number in poisoned:
                with refused("INVALID_ARGUMENT", "UNSUPPORTED_VALUE"):
                    call.result(timeout=20)
            else:
                row = np.frombuffer(call.result(timeout=20).raw_output_contents[0], np.float32)
                assert row.tolist() == [2 * (number % 10), 2 * (number % 10) + 1]
