"""A request's parameters that are amounts, as every server of ours reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chassis.errors import InvalidArgument


def amount_in(parameters: Mapping[str, Any], name: str, unit: str) -> int | None:
    """The number of `unit`, such as "milliseconds", that the parameter says; None without one.

    Triton's clients send int64. Raises InvalidArgument (BAD_PARAMETER).
    """
    if name not in parameters:
        return None
    given = parameters[name]
    kind = given.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param") or getattr(given, kind) < 0:
        raise InvalidArgument(
            "BAD_PARAMETER",
            f"parameter {name!r} must be a number of {unit}, an integer of 0 or more, as int64",
            field=f"parameters[{name}]",
        )
    return int(getattr(given, kind))
