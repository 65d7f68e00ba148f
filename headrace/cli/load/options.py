"""Texts of the command line as parts of a plan: steps, classes, tenants, rows, shapes, spans."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from chassis.connections import token_in
from chassis.errors import InvalidArgument
from chassis.settings import nearest
from headrace.load.arrivals import Step
from headrace.load.mix import Mix, Tenant, TrafficClass

SPAN = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s)?", re.ASCII)
UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, None: 1.0}

CLASS_KEYS = ("priority", "share", "deadline", "objective")
TENANT_KEYS = ("share", "token-file")


def parsed_steps(text: str) -> tuple[Step, ...]:
    """Such as "100:5,400:5". Raises InvalidArgument (BAD_STEP)."""
    steps = []
    for part in text.split(","):
        rate, colon, seconds = part.partition(":")
        if not colon:
            raise InvalidArgument("BAD_STEP", f"step {part!r}: expected rate:seconds, as in 100:5")
        steps.append(Step(_number(rate, "step", part), _number(seconds, "step", part)))
    return tuple(steps)


def parsed_mix(classes: Sequence[str], tenants: Sequence[str]) -> Mix:
    """Raises InvalidArgument (BAD_CLASS, BAD_NAME, BAD_TOKEN_FILE)."""
    default = Mix()
    return Mix(
        tuple(map(parsed_class, classes)) or default.classes,
        tuple(map(parsed_tenant, tenants)) or default.tenants,
    )


def parsed_class(text: str) -> TrafficClass:
    """Such as "gold:priority=1,share=0.2,deadline=50ms,objective=50ms"."""
    name, values = _named(text, "class", CLASS_KEYS)
    return TrafficClass(
        name,
        priority=_whole(values.get("priority", "0"), "class", text),
        share=_number(values.get("share", "1"), "class", text),
        deadline_s=_optional(values, "deadline"),
        objective_s=_optional(values, "objective"),
    )


def parsed_tenant(text: str) -> Tenant:
    """Such as "acme:share=2,token-file=acme.token"."""
    name, values = _named(text, "tenant", TENANT_KEYS)
    file = values.get("token-file")
    return Tenant(
        name,
        share=_number(values.get("share", "1"), "tenant", text),
        token=token_in(Path(file)) if file else "",
    )


def parsed_rows(text: str) -> tuple[int, int]:
    """Such as "4" or "1-8". Raises InvalidArgument (BAD_ROWS)."""
    least, dash, most = text.partition("-")
    if not least.isdecimal() or (dash and not most.isdecimal()):
        raise InvalidArgument("BAD_ROWS", f"rows {text!r}: expected a number or a range, as in 1-8")
    return int(least), int(most or least)


def parsed_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Such as "tokens=8,16". Raises InvalidArgument (BAD_SHAPE)."""
    shapes = {}
    for text in texts:
        name, _, sizes = text.partition("=")
        parts = sizes.split(",")
        if not name or not all(part.isdecimal() for part in parts):
            raise InvalidArgument(
                "BAD_SHAPE", f"shape {text!r}: expected name=SIZE,SIZE without the batch"
            )
        shapes[name] = tuple(map(int, parts))
    return shapes


def parsed_span(text: str) -> float:
    """Seconds of a text such as "50ms" or "2". Raises InvalidArgument (BAD_SPAN)."""
    match = SPAN.fullmatch(text)
    if match is None:
        raise InvalidArgument("BAD_SPAN", f"{text!r} is no span of time: expected one such as 50ms")
    return float(match[1]) * UNITS_S[match[2]]


def _named(text: str, what: str, keys: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The name in front of the colon and the values behind it."""
    name, _, rest = text.partition(":")
    values = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if key not in keys:
            raise InvalidArgument(
                "BAD_CLASS", f"{what} {name!r}: {key!r} is unknown; " + nearest(key, keys)
            )
        if not equals or not value:
            raise InvalidArgument("BAD_CLASS", f"{what} {name!r}: {key} has no value")
        values[key] = value
    return name, values


def _optional(values: Mapping[str, str], key: str) -> float | None:
    return parsed_span(values[key]) if key in values else None


def _number(text: str, what: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _no_number(text, what, whole) from None


def _whole(text: str, what: str, whole: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _no_number(text, what, whole) from None


def _no_number(text: str, what: str, whole: str) -> InvalidArgument:
    return InvalidArgument("BAD_NUMBER", f"{what} {whole!r}: {text!r} is not a number")
