"""Where an answer comes from: version, train step and age of the weights, on every reply.

Decides the parameters' names and forms. Ages are differences of two machines' wall clocks; a
trainer whose clock is ahead makes weights of age 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chassis.parameters import amount_in

VERSION_PARAMETER = "headrace.version"
TRAIN_STEP_PARAMETER = "headrace.train_step"
AGE_PARAMETER = "headrace.age_ms"
MAX_STALENESS_PARAMETER = "max_staleness_ms"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Of the weights that computed an answer.

    `train_step` counts optimizer steps; `age_ms` are milliseconds from the end of that step to the
    computation.
    """

    version: int
    train_step: int
    age_ms: int

    def write(self, parameters: Any) -> None:
        """Tells it in a reply's parameters."""
        parameters[VERSION_PARAMETER].int64_param = self.version
        parameters[TRAIN_STEP_PARAMETER].int64_param = self.train_step
        parameters[AGE_PARAMETER].int64_param = self.age_ms


def provenance_in(parameters: Mapping[str, Any]) -> Provenance | None:
    """What a reply's parameters tell; None where they do not, as those of other servers."""
    if AGE_PARAMETER not in parameters:
        return None
    return Provenance(
        parameters[VERSION_PARAMETER].int64_param,
        parameters[TRAIN_STEP_PARAMETER].int64_param,
        parameters[AGE_PARAMETER].int64_param,
    )


def max_staleness_ms(parameters: Mapping[str, Any]) -> int | None:
    """How old the weights may be at most, as a request says; None where it does not.

    Raises InvalidArgument (BAD_PARAMETER).
    """
    return amount_in(parameters, MAX_STALENESS_PARAMETER, "milliseconds")
