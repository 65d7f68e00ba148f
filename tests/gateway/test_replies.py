"""What another server may answer, and what becomes of it at the door."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from chassis.errors import Internal, InvalidArgument, Unavailable
from chassis.infer import infer_reply, infer_request
from chassis.tensors import Signature, TensorSpec
from gateway.catalog import Catalog, ServedModel
from gateway.dispatch.delivery import Failure
from gateway.ingress.batch import Batch, BatchReply
from gateway.ingress.request import Request
from gateway.policy.retry import Fault
from gateway.statistics import Ledger
from gateway.wire import batch_message, call_failure, read_reply, stream_failure
from protos.inference import grpc_service_pb2 as oip

Y, Z = TensorSpec("y", "FP32", (-1, 2)), TensorSpec("z", "BYTES", (-1, 1))
SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 1)),), (Y, Z), 8)
WORDS = b"\x01\x00\x00\x00a\x02\x00\x00\x00bb"


def batch(version: str = "", **parameters: str | int) -> Batch:
    """Two requests of one row each."""
    message = infer_request(model="m", version=version, inputs=[("x", "FP32", (1, 1), b"\0\0\0\0")])
    for name, value in parameters.items():
        field = "string_param" if isinstance(value, str) else "int64_param"
        setattr(message.parameters[name], field, value)
    model = ServedModel.of("m", SIGNATURE, 0)
    future = asyncio.get_running_loop().create_future
    requests = [Request(message, model, now=0.0, deadline=5.0, answer=future()) for _ in range(2)]
    return Batch(requests, Ledger(), now=0.0)


def reply(outputs, *, version: str = "3", typed: bool = False) -> oip.ModelInferResponse:
    return infer_reply(model="m", version=version, request_id="1", outputs=outputs, typed=typed)


GOOD = [(Y, (2, 2), bytes(16)), (Z, (2, 1), WORDS)]


async def test_a_batch_message_says_all_that_changes_the_answer():
    message = batch_message(batch("3", channel="canary", max_staleness_ms=50), 17, 1.5)
    assert (message.id, message.model_version) == ("17", "3")
    assert list(message.inputs[0].shape) == [2, 1]
    assert message.parameters["channel"].string_param == "canary"
    assert message.parameters["max_staleness_ms"].int64_param == 50
    assert message.parameters["timeout"].int64_param == 1_500_000


@pytest.mark.parametrize("typed", [False, True])
async def test_raw_and_typed_replies_in_any_order(typed):
    outcome = read_reply(reply(GOOD[::-1], typed=typed), batch(), 0.1)
    assert isinstance(outcome, BatchReply)
    assert [(spec.name, shape, raw) for spec, shape, raw in outcome.outputs] == [
        ("y", (2, 2), bytes(16)),
        ("z", (2, 1), WORDS),
    ]


@pytest.mark.parametrize(
    "outputs",
    [
        GOOD[:1],
        [(Y, (3, 2), bytes(24)), GOOD[1]],
        [(Y, (2, 2), bytes(12)), GOOD[1]],
        [(Y, (2, 2), bytes(15)), GOOD[1]],
        [(TensorSpec("y", "FP64", (-1, 2)), (2, 2), bytes(32)), GOOD[1]],
        [GOOD[0], (Z, (2, 1), WORDS[:5])],
        [GOOD[0], (Z, (2, 1), WORDS[:-1])],
    ],
)
async def test_a_reply_that_does_not_fit_is_a_defect_of_the_replica(outputs):
    outcome = read_reply(reply(outputs), batch(), 0.1)
    assert isinstance(outcome, Failure)
    assert outcome.fault is Fault.DEFECT
    assert outcome.error.code is grpc.StatusCode.UNAVAILABLE


async def test_a_pinned_batch_is_answered_by_no_other_version():
    outcome = read_reply(reply(GOOD, version="4"), batch("3"), 0.1)
    assert isinstance(outcome, Failure) and outcome.fault is Fault.REFUSED
    assert isinstance(read_reply(reply(GOOD, version="3"), batch("3"), 0.1), BatchReply)


def test_a_stream_error_tells_code_and_reason():
    error = oip.ModelStreamInferResponse(error_message="too full")
    assert stream_failure(error) is None
    error.infer_response.parameters["headrace_code"].string_param = "RESOURCE_EXHAUSTED"
    error.infer_response.parameters["headrace_reason"].string_param = "QUEUE_FULL"
    failure = stream_failure(error)
    assert failure is not None and failure.fault is Fault.BUSY
    assert (failure.error.reason, failure.error.message) == ("QUEUE_FULL", "too full")
    error.infer_response.parameters["headrace_code"].string_param = "NONSENSE"
    assert stream_failure(error).fault is Fault.DEFECT


@pytest.mark.parametrize(
    ("error", "code", "fault"),
    [
        (Internal("UNKNOWN", "traceback"), grpc.StatusCode.UNAVAILABLE, Fault.DEFECT),
        (Internal("INTERNAL", "boom"), grpc.StatusCode.UNAVAILABLE, Fault.DEFECT),
        (Internal("CANCELLED", "reset"), grpc.StatusCode.UNAVAILABLE, Fault.BROKEN),
        (Internal("FORWARD_FAILED", "id 1"), grpc.StatusCode.INTERNAL, Fault.DEFECT),
        (Unavailable("UNAVAILABLE", "refused"), grpc.StatusCode.UNAVAILABLE, Fault.BROKEN),
        (InvalidArgument("BAD", "bad"), grpc.StatusCode.INVALID_ARGUMENT, Fault.INPUT),
    ],
)
def test_a_unary_status(error, code, fault):
    failure = call_failure(error)
    assert (failure.error.code, failure.fault) == (code, fault)
    assert "traceback" not in failure.error.message


def test_the_catalog_caps_batches_and_names_what_is_known():
    catalog = Catalog(max_batch_size=4)
    catalog.settle({"a": {"m": SIGNATURE}})
    assert catalog.model("m").signature.max_batch_size == 4
    assert catalog.agrees("m", SIGNATURE)
    unbatched = Signature((TensorSpec("x", "FP32", (3,)),), (Y,), 0)
    catalog.settle({"a": {"w": unbatched}})
    assert catalog.model("w").signature.max_batch_size == 0
    assert catalog.names() == ["m", "w"], "known once, known for good"
