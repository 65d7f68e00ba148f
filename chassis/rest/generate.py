"""Triton's generate extension: flat JSON as a ModelInfer message and back.

A name is looked for among the model's inputs, at the top and within "parameters"; what is no input
is a parameter. A value is one element or a list; where the model batches it is one row.
"""

from __future__ import annotations

import math
from typing import Any

from chassis.errors import InvalidArgument
from chassis.rest.infer_reply import check_json_bytes, contents_of
from chassis.rest.json_text import Object, object_at, text_at
from chassis.rest.parameters import put_parameter
from chassis.rest.tensor_json import raw_of, values_of
from chassis.tensors import Signature, TensorSpec
from protos.inference import grpc_service_pb2 as oip

ID = "id"
PARAMETERS = "parameters"


def generate_request(
    given: Object, signature: Signature, *, model: str, version: str
) -> oip.ModelInferRequest:
    """The message that the JSON stands for. Raises InvalidArgument."""
    message = oip.ModelInferRequest(model_name=model, model_version=version)
    specs = {spec.name: spec for spec in signature.inputs}
    within = {} if PARAMETERS in specs else object_at(given, PARAMETERS, PARAMETERS)
    for owner, path in ((given, ""), (within, PARAMETERS)):
        for name, value in owner.items():
            if name in specs:
                _add_input(message, specs[name], value, batches=bool(signature.max_batch_size))
            elif owner is given and name == PARAMETERS:
                continue
            elif owner is given and name == ID:
                message.id = text_at(given, ID, ID)
            else:
                put_parameter(message.parameters[name], name, value, path or PARAMETERS)
    return message


def _add_input(
    message: oip.ModelInferRequest, spec: TensorSpec, value: Any, *, batches: bool
) -> None:
    path = spec.name
    flat = _elements(value, path)
    sizes = spec.shape[1:] if batches else spec.shape
    shape = _shape_of(flat, sizes, path)
    message.raw_input_contents.append(raw_of(flat, spec.datatype, shape, path))
    message.inputs.add(
        name=spec.name, datatype=spec.datatype, shape=[1, *shape] if batches else shape
    )


def _elements(value: Any, path: str) -> list[Any]:
    """The elements of a value or a list. Raises InvalidArgument (BAD_SHAPE) if it is uneven."""
    level = value if type(value) is list else [value]
    while level and type(level[0]) is list:
        if any(type(part) is not list or len(part) != len(level[0]) for part in level):
            raise InvalidArgument("BAD_SHAPE", f"{path} is unevenly nested", field=path)
        level = [element for part in level for element in part]
    return level


def _shape_of(flat: list[Any], sizes: tuple[int, ...], path: str) -> list[int]:
    """Sizes that hold the elements: the last open one takes what the others leave."""
    shape = list(sizes)
    open_axes = [axis for axis, size in enumerate(sizes) if size == -1]
    for axis in open_axes:
        shape[axis] = 1
    if open_axes:
        shape[open_axes[-1]] = len(flat) // math.prod(shape)
    if math.prod(shape) != len(flat):
        raise InvalidArgument(
            "BAD_SHAPE",
            f"{path} holds {len(flat)} values; a row has shape {list(sizes)} (-1 is any size)",
            field=path,
        )
    return shape


def generated(reply: oip.ModelInferResponse, json_bytes: int) -> Object:
    """Outputs by name: one element as a value, others as a flat list.

    Raises InvalidArgument (NOT_JSON), ResourceExhausted (JSON_TOO_LARGE).
    """
    told: Object = {"model_name": reply.model_name, "model_version": reply.model_version}
    if reply.id:
        told[ID] = reply.id
    in_json = 0
    for tensor, raw in contents_of(reply):
        if raw is not None:
            in_json += len(raw)
            check_json_bytes(in_json, json_bytes)
            values = values_of(raw, tensor.datatype, tensor.name)
            told[tensor.name] = values[0] if len(values) == 1 else values
    return told
