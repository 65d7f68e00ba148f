"""Where an answer comes from: version, train step, age and revision of the weights, on every reply.

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
REVISION_PARAMETER = "headrace.revision"
MAX_STALENESS_PARAMETER = "max_staleness_ms"
MIN_REVISION_PARAMETER = "min_revision"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Of the weights that computed an answer.

    `train_step` counts optimizer steps; `age_ms` are milliseconds from the end of that step to the
    computation. `revision` is that of the followed channel at which they began to serve; 0, which
    is not told, where they answered without serving: to a request for their version.
    """

    version: int
    train_step: int
    age_ms: int
    revision: int = 0

    def write(self, parameters: Any) -> None:
        """Tells it in a reply's parameters."""
        parameters[VERSION_PARAMETER].int64_param = self.version
        parameters[TRAIN_STEP_PARAMETER].int64_param = self.train_step
        parameters[AGE_PARAMETER].int64_param = self.age_ms
        if self.revision:
            parameters[REVISION_PARAMETER].int64_param = self.revision


def provenance_in(parameters: Mapping[str, Any]) -> Provenance | None:
    """What a reply's parameters tell; None where they do not, as those of other servers."""
    if AGE_PARAMETER not in parameters:
        return None
    return Provenance(
        parameters[VERSION_PARAMETER].int64_param,
        parameters[TRAIN_STEP_PARAMETER].int64_param,
        parameters[AGE_PARAMETER].int64_param,
        # Asking a map of messages for what is not there would put it there.
        parameters[REVISION_PARAMETER].int64_param if REVISION_PARAMETER in parameters else 0,
    )


def max_staleness_ms(parameters: Mapping[str, Any]) -> int | None:
    """How old the weights may be at most, as a request says; None where it does not.

    Raises InvalidArgument (BAD_PARAMETER).
    """
    return amount_in(parameters, MAX_STALENESS_PARAMETER, "milliseconds")


def min_revision(parameters: Mapping[str, Any]) -> int | None:
    """The least revision of the channel that may answer, as a request says; None where it does not.

    Raises InvalidArgument (BAD_PARAMETER).
    """
    return amount_in(parameters, MIN_REVISION_PARAMETER, "moves of the channel")
