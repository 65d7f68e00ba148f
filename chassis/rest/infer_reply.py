"""ModelInfer's answer for HTTP: JSON, with raw tensors behind it where they were asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from chassis.errors import ResourceExhausted
from chassis.rest.infer_request import BINARY_SIZE, SHARED_MEMORY, Wanted
from chassis.rest.json_text import Object
from chassis.rest.parameters import parameters_of
from chassis.rest.refusals import dumped
from chassis.rest.tensor_json import values_of
from chassis.tensors import NUMPY_TYPES, encode_raw
from chassis.typed_contents import TYPED_FIELDS
from protos.inference import grpc_service_pb2 as oip


def infer_reply(
    reply: oip.ModelInferResponse, wanted: Wanted, json_bytes: int
) -> tuple[bytes, int | None]:
    """The body, and the length of the JSON in it where raw tensors follow.

    Raises InvalidArgument (NOT_JSON), ResourceExhausted (JSON_TOO_LARGE) where an output must
    travel as binary data and was not asked for so.
    """
    told: Object = {"model_name": reply.model_name, "model_version": reply.model_version}
    if reply.id:
        told["id"] = reply.id
    if reply.parameters:
        told["parameters"] = parameters_of(reply.parameters)
    binary: list[bytes] = []
    told["outputs"] = outputs = []
    in_json = 0
    for tensor, raw in contents_of(reply):
        output: Object = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        parameters = parameters_of(tensor.parameters) if tensor.parameters else {}
        if raw is None:
            pass
        elif wanted.is_binary(tensor.name):
            parameters[BINARY_SIZE] = len(raw)
            binary.append(raw)
        else:
            in_json += len(raw)
            check_json_bytes(in_json, json_bytes)
            output["data"] = values_of(raw, tensor.datatype, tensor.name)
        if parameters:
            output["parameters"] = parameters
        outputs.append(output)
    text = dumped(told)
    if not binary:
        return text, None
    return b"".join([text, *binary]), len(text)


def check_json_bytes(count: int, limit: int) -> None:
    """Raises ResourceExhausted (JSON_TOO_LARGE)."""
    if count > limit:
        raise ResourceExhausted(
            "JSON_TOO_LARGE",
            f"the answer's tensors hold more than the {limit} bytes that the server writes as "
            "JSON; ask for them as binary data",
        )


def contents_of(reply: oip.ModelInferResponse) -> Iterator[tuple[Any, bytes | None]]:
    """Each output with its raw bytes, None for one that lies in shared memory."""
    raw_contents = reply.raw_output_contents
    # Servers differ in whether an output in shared memory has an entry, then an empty one.
    aligned = len(raw_contents) == len(reply.outputs)
    rest = iter(raw_contents)
    for index, tensor in enumerate(reply.outputs):
        if SHARED_MEMORY in tensor.parameters:
            yield tensor, None
        elif tensor.HasField("contents"):
            yield tensor, _raw_of_typed(tensor)
        else:
            yield tensor, raw_contents[index] if aligned else next(rest, b"")


def _raw_of_typed(tensor: Any) -> bytes:
    values = list(getattr(tensor.contents, TYPED_FIELDS[tensor.datatype]))
    return encode_raw(np.array(values, dtype=NUMPY_TYPES[tensor.datatype]), tensor.datatype)
