"""One request: read from the wire, checked against its model, waiting for its answer.

Reading decides everything that needs only the request and the model's description: which queue it
belongs to, until when it may wait, which outputs it wants and in which form. Whether it may wait
is the door's affair.
"""

from __future__ import annotations

from typing import Any

from chassis.errors import InvalidArgument, Unimplemented
from chassis.infer import checked_inputs, wanted_outputs
from chassis.names import checked_name
from chassis.oip import checked_version
from gateway.catalog import ServedModel
from gateway.ingress.answer import Answer, Responses
from gateway.policy.queue import QueueKey
from protos.inference import grpc_service_pb2 as oip

MICROSECONDS = 1_000_000
# Bookkeeping of a waiting request beside its tensors; keeps empty tensors from being free.
OVERHEAD_BYTES = 512
_WIRE_PARAMETERS = ("classification", "shared_memory_region")


class Request:
    """A checked request. `raw` and `shapes` follow the signature's inputs; times are loop times.

    `wanted` holds positions of outputs in the signature; `answer` ends with a ModelInferResponse
    or a HeadraceError.
    """

    __slots__ = (
        "answer",
        "arrived_at",
        "deadline",
        "id",
        "key",
        "model",
        "order",
        "raw",
        "responses",
        "rows",
        "shapes",
        "size_bytes",
        "typed",
        "wanted",
    )

    def __init__(
        self,
        message: oip.ModelInferRequest,
        model: ServedModel,
        *,
        now: float,
        deadline: float,
        answer: Answer,
        responses: Responses | None = None,
    ) -> None:
        """Raises InvalidArgument (see `checked_inputs`; BAD_VERSION, BAD_PARAMETER, BAD_NAME)."""
        inputs = checked_inputs(message, model.signature)
        self.model = model
        self.raw = inputs.raw
        self.shapes = inputs.shapes
        self.rows = inputs.rows
        self.typed = inputs.typed
        self.wanted = _wanted(message, model)
        self.size_bytes = sum(map(len, inputs.raw)) + OVERHEAD_BYTES
        self.id = message.id
        self.arrived_at = now
        self.deadline = deadline
        self.answer = answer
        # Where the caller takes more than one response.
        self.responses = responses
        self.order = 0
        self.key = _key(message, model, inputs.shapes)

    @property
    def answered(self) -> bool:
        """True once it ended, or its caller went away."""
        return self.answer.done()


def _key(
    message: oip.ModelInferRequest, model: ServedModel, shapes: list[tuple[int, ...]]
) -> QueueKey:
    return QueueKey(
        model.name,
        checked_version(message.model_version) if message.model_version else 0,
        carried_parameters(message.parameters) if message.parameters else (),
        () if model.fixed_rows else tuple(shape[1:] for shape in shapes),
        0 if model.signature.decoupled else model.signature.max_batch_size,
        model.id,
        model.signature.decoupled,
    )


def _wanted(message: oip.ModelInferRequest, model: ServedModel) -> tuple[int, ...]:
    for output in message.outputs:
        for name in _WIRE_PARAMETERS:
            if name in output.parameters:
                raise Unimplemented(
                    "NOT_IMPLEMENTED",
                    f"output {output.name[:64]!r} asks for {name}, which is not served here",
                )
    return wanted_outputs(message, model.signature)


def carried_parameters(parameters: Any) -> tuple[tuple[str, str | int], ...]:
    """The parameters that a replica must see because they change the answer.

    Raises InvalidArgument (BAD_PARAMETER, BAD_NAME).
    """
    carried: list[tuple[str, str | int]] = []
    if "channel" in parameters:
        choice = parameters["channel"]
        if choice.WhichOneof("parameter_choice") != "string_param":
            raise _bad_parameter("channel", "a string")
        carried.append(("channel", checked_name(choice.string_param, what="channel")))
    if "max_staleness_ms" in parameters:
        carried.append(("max_staleness_ms", _integer(parameters, "max_staleness_ms")))
    return tuple(carried)


def timeout_parameter_s(parameters: Any) -> float | None:
    """Seconds that the `timeout` parameter (microseconds) grants; None without one, or for 0.

    Raises InvalidArgument (BAD_PARAMETER).
    """
    if "timeout" not in parameters:
        return None
    return _integer(parameters, "timeout") / MICROSECONDS or None


def _integer(parameters: Any, name: str) -> int:
    choice = parameters[name]
    kind = choice.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param") or getattr(choice, kind) < 0:
        raise _bad_parameter(name, "an integer of 0 or more")
    return int(getattr(choice, kind))


def _bad_parameter(name: str, expected: str) -> InvalidArgument:
    return InvalidArgument(
        "BAD_PARAMETER", f"parameter {name!r} must be {expected}", field=f"parameters.{name}"
    )
