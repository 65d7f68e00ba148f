"""The door to replicas: batches as ModelInfer requests, their answers as `BatchReply` or `Failure`.

A reply is checked here against the batch's model, so that nothing behind this door meets a short
tensor or another version than the pinned one.
"""

from __future__ import annotations

from typing import Any

import grpc

from chassis.errors import (
    FailedPrecondition,
    HeadraceError,
    Internal,
    InvalidArgument,
    Unavailable,
)
from chassis.infer import decoded_outputs, infer_request
from chassis.provenance import provenance_in
from chassis.sequences import add_step
from chassis.stream_errors import error_of
from chassis.tensors import ELEMENT_BYTES, TensorSpec, encode_raw, split_bytes_elements
from gateway.dispatch.delivery import Failure, Outcome, failure_of, lost
from gateway.ingress.batch import Batch, BatchReply
from gateway.policy.retry import Fault
from protos.inference import grpc_service_pb2 as oip

MICROSECONDS = 1_000_000
MAX_INT64 = 2**63 - 1


def batch_message(batch: Batch, delivery_id: int, timeout_s: float) -> oip.ModelInferRequest:
    """The request that carries a batch; `timeout_s` is how long its answer is wanted."""
    key = batch.key
    message = infer_request(
        model=key.model,
        version=str(batch.pinned) if batch.pinned else "",
        request_id=str(delivery_id),
        inputs=batch.tensors,
    )
    message.parameters["timeout"].int64_param = max(1, int(timeout_s * MICROSECONDS))
    if batch.step is not None:
        add_step(message.parameters, batch.step)
    for name, value in batch.carried:
        if isinstance(value, str):
            message.parameters[name].string_param = value
        elif value <= MAX_INT64:
            message.parameters[name].int64_param = value
        else:
            message.parameters[name].uint64_param = value
    return message


def stream_failure(reply: oip.ModelStreamInferResponse) -> Failure | None:
    """The failure that an error reply on a stream tells; None if it names no code."""
    error = error_of(reply)
    return None if error is None else call_failure(error)


def call_failure(error: HeadraceError) -> Failure:
    """The failure behind a status.

    A status without a reason of ours keeps the code's name as reason. Another server's INTERNAL or
    UNKNOWN may be due to the input, and callers are not told INTERNAL for that.
    """
    if error.reason == "CANCELLED":
        return lost()
    if isinstance(error, Internal) and error.reason in grpc.StatusCode.__members__:
        unknown = Unavailable("REPLICA_ERROR", "the replica failed to compute the answer")
        return Failure(unknown, Fault.DEFECT)
    return failure_of(error)


def read_reply(message: oip.ModelInferResponse, batch: Batch, infer_s: float) -> Outcome:
    """The checked answer to a batch."""
    return _read(message, batch, batch.rows if batch.key.max_rows else 0, infer_s)


def read_response(
    message: oip.ModelInferResponse, batch: Batch, version: str
) -> BatchReply | Failure:
    """One checked response of a decoupled request; its rows are the model's to choose.

    `version` is the one that gave the responses before it, "" for the first.
    """
    if version and message.model_version != version:
        return _malformed()
    return _read(message, batch, 0, 0.0)


def _read(
    message: oip.ModelInferResponse, batch: Batch, rows: int, infer_s: float
) -> BatchReply | Failure:
    key = batch.key
    if batch.pinned and message.model_version != str(batch.pinned):
        return Failure(
            FailedPrecondition(
                "VERSION_NOT_LOADED", f"no replica holds version {batch.pinned} of {key.model!r}"
            ),
            Fault.REFUSED,
        )
    try:
        by_name = _tensors(message)
        outputs = [_checked(spec, by_name, rows) for spec in batch.model.signature.outputs]
    except InvalidArgument:
        return _malformed()
    return BatchReply(message.model_version, outputs, infer_s, provenance_in(message.parameters))


def _malformed() -> Failure:
    return Failure(
        Unavailable("BAD_REPLICA_REPLY", "the replica's answer does not fit the model"),
        Fault.DEFECT,
    )


def _tensors(message: oip.ModelInferResponse) -> dict[str, tuple[Any, bytes]]:
    raw = message.raw_output_contents
    if len(raw) == len(message.outputs):
        return {tensor.name: (tensor, raw[at]) for at, tensor in enumerate(message.outputs)}
    arrays = decoded_outputs(message)
    return {
        tensor.name: (tensor, encode_raw(arrays[tensor.name], tensor.datatype))
        for tensor in message.outputs
    }


def _checked(
    spec: TensorSpec, by_name: dict[str, tuple[Any, bytes]], rows: int
) -> tuple[TensorSpec, tuple[int, ...], bytes]:
    """`rows` 0 for a model without a batch dimension."""
    tensor, raw = by_name.get(spec.name, (None, b""))
    if tensor is None or tensor.datatype != spec.datatype:
        raise InvalidArgument("BAD_DATATYPE", f"output {spec.name!r} is missing or of another type")
    shape = tuple(tensor.shape)
    if rows and (not shape or shape[0] != rows):
        raise InvalidArgument("BAD_SHAPE", f"output {spec.name!r} does not have {rows} rows")
    count = 1
    for size in shape:
        count *= size
    element_bytes = ELEMENT_BYTES.get(spec.datatype)
    held = (
        len(raw) // element_bytes
        if element_bytes and len(raw) % element_bytes == 0
        else len(split_bytes_elements(raw, name=spec.name))
    )
    if held != count:
        raise InvalidArgument("BAD_BYTE_COUNT", f"output {spec.name!r} holds {held} elements")
    return spec, shape, raw
