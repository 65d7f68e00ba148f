"""A request's place in a sequence, as its parameters say it: the same at gateway and replica.

`sequence_id` is an integer or a string, 0 and "" being none; 1 and "1" are different sequences.
`sequence_start` and `sequence_end` are booleans, and say nothing without an id. How long a sequence
lives and where it is computed is not decided here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from chassis.errors import FailedPrecondition, InvalidArgument

# As long as Triton's own string ids may be.
MAX_ID_CHARS = 128

SequenceId = int | str


class Step(NamedTuple):
    """One request of a sequence: whether it begins it anew, and whether it ends it."""

    id: SequenceId
    start: bool
    end: bool


def step_of(parameters: Any) -> Step | None:
    """The step that a request's parameters ask for; None for a request of no sequence.

    Raises InvalidArgument (BAD_PARAMETER).
    """
    if "sequence_id" not in parameters:
        return None
    sequence_id = _id(parameters["sequence_id"])
    start = _flag(parameters, "sequence_start")
    end = _flag(parameters, "sequence_end")
    return Step(sequence_id, start, end) if sequence_id else None


def add_step(parameters: Any, step: Step) -> None:
    """Writes the step into a request's parameters."""
    if isinstance(step.id, str):
        parameters["sequence_id"].string_param = step.id
    else:
        parameters["sequence_id"].int64_param = step.id
    parameters["sequence_start"].bool_param = step.start
    parameters["sequence_end"].bool_param = step.end


def sequence_required(model: str) -> InvalidArgument:
    """The status of a request without a sequence to a model that keeps states."""
    return InvalidArgument(
        "SEQUENCE_REQUIRED",
        f"model {model!r} carries states from request to request; expected the parameter "
        "'sequence_id', and 'sequence_start' with the first request",
        field="parameters[sequence_id]",
    )


def not_started(sequence_id: SequenceId) -> InvalidArgument:
    """The status of a request that continues a sequence nobody knows."""
    return InvalidArgument(
        "SEQUENCE_NOT_STARTED",
        f"sequence {sequence_id!r} has not begun, has ended, or was idle for too long; expected "
        "'sequence_start' with its first request",
        field="parameters[sequence_id]",
    )


def lost(sequence_id: SequenceId, why: str) -> FailedPrecondition:
    """The status of a request whose sequence cannot go on."""
    return FailedPrecondition(
        "SEQUENCE_LOST",
        f"sequence {sequence_id!r} is lost: {why}; start it anew",
        field="parameters[sequence_id]",
    )


def other_version(sequence_id: SequenceId, *, version: int, asked: int) -> FailedPrecondition:
    """The status of a request that names another version than its sequence runs on."""
    return FailedPrecondition(
        "SEQUENCE_VERSION",
        f"sequence {sequence_id!r} runs on version {version}; the request names {asked}",
        field="model_version",
    )


def _id(choice: Any) -> SequenceId:
    kind = choice.WhichOneof("parameter_choice")
    if kind == "string_param" and len(choice.string_param) <= MAX_ID_CHARS:
        return str(choice.string_param)
    if kind in ("int64_param", "uint64_param") and 0 <= getattr(choice, kind) < 2**63:
        return int(getattr(choice, kind))
    raise InvalidArgument(
        "BAD_PARAMETER",
        f"parameter 'sequence_id' must be an integer from 0 to 2**63 - 1, or a string of at most "
        f"{MAX_ID_CHARS} characters",
        field="parameters[sequence_id]",
    )


def _flag(parameters: Any, name: str) -> bool:
    if name not in parameters:
        return False
    choice = parameters[name]
    if choice.WhichOneof("parameter_choice") != "bool_param":
        raise InvalidArgument(
            "BAD_PARAMETER", f"parameter {name!r} must be a boolean", field=f"parameters[{name}]"
        )
    return bool(choice.bool_param)
