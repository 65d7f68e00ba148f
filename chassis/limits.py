"""How much one request may hold, checked before anything is done with it.

Counts and lengths only: what they must be for a certain model is `chassis.infer`'s to say. The
bytes of a message are bounded by the server that reads it, those of what becomes of it here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NoReturn

from chassis.connections import DEFAULT_MESSAGE_BYTES
from chassis.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one request's content; each may be reached, not passed.

    `tensor_bytes` bounds its tensors as raw bytes: typed contents, regions of shared memory and
    padding may give more of them than the message had. `parameter_chars` bounds the request's id
    too; `parameters` those of the request and those of each tensor by themselves.
    """

    tensors: int = 256
    outputs: int = 256
    dims: int = 32
    elements: int = 2**30
    # Of a BYTES tensor, whose elements are looked at one by one.
    bytes_elements: int = 2**20
    tensor_bytes: int = DEFAULT_MESSAGE_BYTES
    name_chars: int = 256
    parameters: int = 64
    parameter_chars: int = 4096


DEFAULT_LIMITS = Limits()


def check_limits(message: Any, limits: Limits) -> None:
    """Looks at a whole ModelInferRequest.

    Raises InvalidArgument: TOO_MANY_TENSORS, TOO_MANY_OUTPUTS, TOO_MANY_DIMS, TOO_MANY_ELEMENTS,
    TOO_MANY_PARAMETERS, NAME_TOO_LONG, PARAMETER_TOO_LONG.
    """
    tensors = message.inputs
    if len(tensors) > limits.tensors:
        _refuse("TOO_MANY_TENSORS", "inputs", len(tensors), limits.tensors, "inputs")
    for at, tensor in enumerate(tensors[:]):
        dims = tensor.shape
        if len(tensor.name) > limits.name_chars:
            _refuse_name(f"inputs[{at}].name", len(tensor.name), limits)
        if len(dims) > limits.dims:
            _refuse("TOO_MANY_DIMS", "dimensions", len(dims), limits.dims, f"inputs[{at}].shape")
        count = math.prod(dims[:])
        if count > limits.bytes_elements or count > limits.elements:
            _check_elements(tensor, count, f"inputs[{at}].shape", limits)
        if tensor.parameters:
            _check_parameters(tensor.parameters, f"inputs[{at}].parameters", limits)
    if message.outputs:
        _check_outputs(message.outputs, limits)
    if message.parameters:
        _check_parameters(message.parameters, "parameters", limits)
    if len(message.id) > limits.parameter_chars:
        _refuse_text("id", len(message.id), limits)


def check_tensor_bytes(size_bytes: int, limits: Limits, field: str) -> None:
    """Raises InvalidArgument (TOO_MANY_BYTES)."""
    if size_bytes > limits.tensor_bytes:
        raise InvalidArgument(
            "TOO_MANY_BYTES",
            f"the request's tensors take {size_bytes} bytes as raw contents; expected at most "
            f"{limits.tensor_bytes}",
            field=field,
        )


def _check_elements(tensor: Any, count: int, field: str, limits: Limits) -> None:
    most = limits.elements
    if tensor.datatype == "BYTES":
        most = min(most, limits.bytes_elements)
    if count > most:
        raise InvalidArgument(
            "TOO_MANY_ELEMENTS",
            f"{field} is {tensor.shape[:]}; expected at most {most} elements",
            field=field,
        )


def _check_outputs(outputs: Any, limits: Limits) -> None:
    if len(outputs) > limits.outputs:
        _refuse("TOO_MANY_OUTPUTS", "outputs", len(outputs), limits.outputs, "outputs")
    for at, output in enumerate(outputs):
        if len(output.name) > limits.name_chars:
            _refuse_name(f"outputs[{at}].name", len(output.name), limits)
        if output.parameters:
            _check_parameters(output.parameters, f"outputs[{at}].parameters", limits)


def _check_parameters(parameters: Any, field: str, limits: Limits) -> None:
    if len(parameters) > limits.parameters:
        _refuse("TOO_MANY_PARAMETERS", "parameters", len(parameters), limits.parameters, field)
    for name, value in parameters.items():
        if len(name) > limits.name_chars:
            _refuse_name(field, len(name), limits)
        if len(value.string_param) > limits.parameter_chars:
            _refuse_text(f"{field}[{name}]", len(value.string_param), limits)


def _refuse(reason: str, what: str, count: int, most: int, field: str) -> NoReturn:
    raise InvalidArgument(reason, f"{field}: {count} {what}; expected at most {most}", field=field)


def _refuse_name(field: str, chars: int, limits: Limits) -> NoReturn:
    raise InvalidArgument(
        "NAME_TOO_LONG",
        f"{field} holds a name of {chars} characters; expected at most {limits.name_chars}",
        field=field,
    )


def _refuse_text(field: str, chars: int, limits: Limits) -> NoReturn:
    raise InvalidArgument(
        "PARAMETER_TOO_LONG",
        f"{field} has {chars} characters; expected at most {limits.parameter_chars}",
        field=field,
    )
