"""What is asked of a model and what comes back: options as a request, replies as arrays.

Shared by the blocking and the asyncio client, whole calls and streams; it waits for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy.typing as npt

from chassis.errors import DeadlineExceeded, HeadraceError, Internal, InvalidArgument
from chassis.infer import decoded_outputs, encoded_inputs, infer_request
from chassis.provenance import MAX_STALENESS_PARAMETER, provenance_in
from chassis.stream_errors import EMPTY_FINAL_PARAMETER, FINAL_PARAMETER, error_of
from protos.inference import grpc_service_pb2 as oip

Arrays = Mapping[str, npt.ArrayLike]
Parameter = bool | int | float | str

MICROSECONDS = 1_000_000


class Options(TypedDict, total=False):
    """What may be said of a request beside its inputs; leave out what does not matter."""

    # Pins the answer to one version of the model.
    version: int | None
    # Pins the answer to the version that a channel names.
    channel: str | None
    # Names of the outputs wanted; all of them unless named.
    outputs: Sequence[str]
    # For an output by name, how many of its best classes are wanted instead of its values.
    classes: Mapping[str, int]
    # How old the weights may be at most, in milliseconds since their train step.
    max_staleness_ms: int | None
    # Seconds that the answer may take.
    timeout_s: float | None
    # A point of time.monotonic() after which the answer is of no use; the earlier of both counts.
    deadline: float | None
    # 1 is the most urgent; 0 leaves it to the server.
    priority: int
    # Comes back as the prediction's `request_id`.
    request_id: str
    # Any other parameter of the protocol or of the model's server.
    parameters: Mapping[str, Parameter]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer: output arrays by name, and the model version that computed them.

    `train_step` counts the optimizer steps behind that version, `age_ms` are the milliseconds since
    the last of them; both are None where the server does not tell.
    """

    model: str
    version: int
    outputs: dict[str, npt.NDArray[Any]]
    request_id: str = ""
    train_step: int | None = None
    age_ms: int | None = None

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.outputs[name]


def seconds_left(options: Options, default_s: float) -> float:
    """How long the answer may take. Raises DeadlineExceeded where that is over."""
    given = options.get("timeout_s")
    left = default_s if given is None else given
    deadline = options.get("deadline")
    if deadline is not None:
        left = min(left, deadline - time.monotonic())
    if left <= 0:
        raise DeadlineExceeded(
            "DEADLINE_EXCEEDED", "the deadline had passed before the request was sent"
        )
    return left


def request_of(model: str, inputs: Arrays, options: Options) -> oip.ModelInferRequest:
    """The message that asks; deadlines travel beside it. Raises InvalidArgument."""
    classes = options.get("classes") or {}
    version = options.get("version")
    names = list(options.get("outputs") or ())
    request = infer_request(
        model=model,
        version=str(version) if version else "",
        request_id=options.get("request_id", ""),
        inputs=encoded_inputs(inputs),
        outputs=[*names, *(name for name in classes if name not in names)],
    )
    for output in request.outputs:
        if output.name in classes:
            output.parameters["classification"].int64_param = classes[output.name]
    for name, value in (options.get("parameters") or {}).items():
        set_parameter(request, name, value)
    channel = options.get("channel")
    if channel:
        set_parameter(request, "channel", channel)
    staleness_ms = options.get("max_staleness_ms")
    if staleness_ms is not None:
        set_parameter(request, MAX_STALENESS_PARAMETER, int(staleness_ms))
    priority = options.get("priority", 0)
    if priority:
        request.parameters["priority"].uint64_param = _checked_priority(priority)
    return request


def set_parameter(request: oip.ModelInferRequest, name: str, value: Parameter) -> None:
    """Sets one parameter in the form its type has on the wire. Raises InvalidArgument."""
    # A bool is an int to Python: it goes first.
    if isinstance(value, bool):
        request.parameters[name].bool_param = value
    elif isinstance(value, int) and -(2**63) <= value < 2**63:
        request.parameters[name].int64_param = value
    elif isinstance(value, float):
        request.parameters[name].double_param = value
    elif isinstance(value, str):
        request.parameters[name].string_param = value
    else:
        raise InvalidArgument(
            "BAD_PARAMETER",
            f"parameter {name!r} is {value!r}; expected a bool, a 64-bit int, a float or a str",
            field=f"parameters[{name}]",
        )


def stream_request_of(
    model: str, inputs: Arrays, options: Options, *, wire_id: str, timeout_s: float
) -> oip.ModelInferRequest:
    """The same for a stream, whose requests carry their own time limit and a marked end."""
    request = request_of(model, inputs, options)
    request.id = wire_id
    request.parameters["timeout"].int64_param = max(1, int(timeout_s * MICROSECONDS))
    request.parameters[EMPTY_FINAL_PARAMETER].bool_param = True
    return request


def prediction_of(reply: oip.ModelInferResponse, request_id: str | None = None) -> Prediction:
    """The answer a reply carries; `request_id` replaces the id it names.

    Raises Internal (BAD_REPLY) where the reply's tensors are not what they claim to be.
    """
    try:
        outputs = decoded_outputs(reply)
        version = int(reply.model_version or 0)
    except (HeadraceError, ValueError, KeyError) as error:
        raise Internal("BAD_REPLY", f"the server's answer cannot be read: {error}") from error
    provenance = provenance_in(reply.parameters)
    return Prediction(
        reply.model_name,
        version,
        outputs,
        reply.id if request_id is None else request_id,
        None if provenance is None else provenance.train_step,
        None if provenance is None else provenance.age_ms,
    )


def is_final(reply: oip.ModelStreamInferResponse) -> bool:
    """Whether no further response to the request follows."""
    parameters = reply.infer_response.parameters
    return (
        bool(reply.error_message)
        or FINAL_PARAMETER not in parameters
        or parameters[FINAL_PARAMETER].bool_param
    )


def failure_in(reply: oip.ModelStreamInferResponse) -> HeadraceError | None:
    """The error a response on a stream carries, None where it carries none."""
    if not reply.error_message:
        return None
    return error_of(reply) or Internal("SERVER_ERROR", reply.error_message)


def _checked_priority(priority: int) -> int:
    if 0 <= priority < 2**64:
        return priority
    raise InvalidArgument(
        "BAD_PARAMETER",
        f"priority {priority} is out of range: expected 1 (the most urgent) or more, 0 for the "
        "server's default",
        field="parameters[priority]",
    )
