"""Parameters: JSON values as OIP's InferParameter and back."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from chassis.errors import InvalidArgument
from chassis.rest.json_text import Object

# Parameters that gRPC's clients send unsigned.
_UNSIGNED = ("priority",)


def put_parameters(target: Any, given: Object, path: str, besides: Collection[str] = ()) -> None:
    """Sets a message's map from `given`, leaving out the names in `besides`.

    `path` is where `given` stands, for the sentence. Raises InvalidArgument (BAD_PARAMETER).
    """
    for name, value in given.items():
        if name not in besides:
            put_parameter(target[name], name, value, path)


def put_parameter(parameter: Any, name: str, value: object, path: str) -> None:
    """Sets one InferParameter. Raises InvalidArgument (BAD_PARAMETER)."""
    kind = type(value)
    if kind is bool:
        parameter.bool_param = value
    elif kind is int and isinstance(value, int):
        if name in _UNSIGNED and 0 <= value < 2**64:
            parameter.uint64_param = value
        elif -(2**63) <= value < 2**63:
            parameter.int64_param = value
        elif 0 <= value < 2**64:
            parameter.uint64_param = value
        else:
            raise _bad(name, path)
    elif kind is str:
        parameter.string_param = value
    elif kind is float:
        parameter.double_param = value
    else:
        raise _bad(name, path)


def _bad(name: str, path: str) -> InvalidArgument:
    where = f"{path}[{name[:64]}]"
    return InvalidArgument(
        "BAD_PARAMETER",
        f"{where} is neither a string, a number of 64 bits nor a flag",
        field=where,
    )


def parameters_of(source: Any) -> Object:
    """A message's map as JSON values."""
    found: Object = {}
    for name, parameter in source.items():
        choice = parameter.WhichOneof("parameter_choice")
        found[name] = getattr(parameter, choice) if choice else None
    return found
