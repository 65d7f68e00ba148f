"""Whether weights may become a version: thresholds of metrics, or a function of them.

Decides that a metric which is missing or not a number lets nothing through.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping

from chassis.errors import InvalidArgument

# Gets the newest metrics by name; or a bound by name of the metric, such as {"auc": ">=0.7"}.
Gate = Callable[[Mapping[str, float]], bool] | Mapping[str, str]

_BOUND = re.compile(r"\s*(>=|<=|>|<)\s*([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)\s*", re.ASCII)
_HOLDS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


def refusal_of(gate: Gate) -> Callable[[Mapping[str, float]], str]:
    """From metrics to why they do not pass the gate, in words; empty where they do.

    Raises InvalidArgument (BAD_GATE).
    """
    if callable(gate):
        asked = gate
        return lambda metrics: "" if asked(metrics) else "the gate refused"
    bounds = {name: _parsed(name, bound) for name, bound in gate.items()}
    if not bounds:
        raise InvalidArgument("BAD_GATE", "the gate is empty: expected bounds by metric, or None")

    def refusal(metrics: Mapping[str, float]) -> str:
        failing = (_failing(name, *bound, metrics) for name, bound in bounds.items())
        return "; ".join(filter(None, failing))

    return refusal


def _parsed(name: str, bound: object) -> tuple[str, float]:
    found = _BOUND.fullmatch(bound) if isinstance(bound, str) else None
    try:
        if found is not None:
            return found[1], float(found[2])
    except ValueError:
        pass
    raise InvalidArgument(
        "BAD_GATE", f"gate of {name!r}: {bound!r} is no bound; expected one such as '>=0.9'"
    )


def _failing(name: str, relation: str, bound: float, metrics: Mapping[str, float]) -> str:
    value = float(metrics.get(name, math.nan))
    if _HOLDS[relation](value, bound):
        return ""
    have = "is missing" if name not in metrics else f"is {value:g}"
    return f"{name} {have}, not {relation} {bound:g}"
