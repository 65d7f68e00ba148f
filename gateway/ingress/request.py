"""One request: read from the wire, checked against its model, waiting for its answer.

Reading decides everything that needs only the request and the model's description: which queue it
belongs to, until when it may wait, which outputs it wants and in which form. Whether it may wait
is the door's affair.
"""

from __future__ import annotations

from typing import Any

from chassis.errors import InvalidArgument
from chassis.inputs import checked_inputs
from chassis.limits import DEFAULT_LIMITS, Limits, check_tensor_bytes
from chassis.names import checked_name
from chassis.oip import checked_version
from chassis.outputs import output_forms, wanted_outputs
from chassis.padding import Cuts, padder_of
from chassis.parameters import amount_in
from chassis.provenance import (
    MAX_STALENESS_PARAMETER,
    MIN_REVISION_PARAMETER,
    max_staleness_ms,
    min_revision,
)
from chassis.sequences import SequenceId, Step, sequence_required, step_of
from chassis.shared_memory import NO_REGIONS, Regions
from gateway.catalog import ServedModel
from gateway.ingress.answer import Answer, Responses
from gateway.ingress.objective import NO_OBJECTIVES, Objectives
from gateway.ingress.priority import Priorities
from gateway.policy.lane import QueueKey
from protos.inference import grpc_service_pb2 as oip

MICROSECONDS = 1_000_000
# A year. Longer ones mean for ever, and would not fit into what is sent to replicas.
LONGEST_TIMEOUT_S = 365 * 24 * 3600.0
# Bookkeeping of a waiting request beside its tensors; keeps empty tensors from being free.
OVERHEAD_BYTES = 512
ANY_PRIORITY = Priorities()


class Request:
    """A checked request. `raw` and `shapes` follow the signature's inputs; times are loop times.

    In a batch its inputs are filled up to the shapes `padded`, and `cuts` tells what then comes off
    the outputs. `due_at` is when a replica must have answered, for the deadline and the class's
    objective; `tenant` is on whose account it goes. `wanted` holds positions of outputs in the
    signature, `forms` how each travels; `answer` ends with a ModelInferResponse or a HeadraceError.
    Requests of one `session` are tried on a rollout's candidate together; "" stands alone.
    `step` is its place in a sequence of its caller, `wire_step` the same as replicas are told it;
    both None outside a sequence.
    """

    __slots__ = (
        "answer",
        "arrived_at",
        "caller",
        "carried",
        "cuts",
        "deadline",
        "due_at",
        "forms",
        "id",
        "key",
        "model",
        "objective_binds",
        "order",
        "padded",
        "priority",
        "queued_at",
        "raw",
        "responses",
        "rows",
        "session",
        "shapes",
        "size_bytes",
        "step",
        "tenant",
        "typed",
        "version",
        "wanted",
        "wire_step",
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
        caller: str = "",
        priorities: Priorities = ANY_PRIORITY,
        objectives: Objectives = NO_OBJECTIVES,
        limits: Limits = DEFAULT_LIMITS,
        regions: Regions = NO_REGIONS,
    ) -> None:
        """`regions` are what the caller may name; `check_limits` has passed.

        Raises InvalidArgument (BAD_VERSION, BAD_PARAMETER, BAD_NAME, TOO_MANY_BYTES,
        SEQUENCE_REQUIRED) and what `checked_inputs`, `wanted_outputs`, `output_forms` and
        `Padder.padded` raise.
        """
        signature = model.signature
        inputs = checked_inputs(message, signature, limits=limits, regions=regions)
        self.model = model
        self.raw = inputs.raw
        self.shapes = inputs.shapes
        self.rows = inputs.rows
        self.typed = inputs.typed
        self.padded = inputs.shapes
        self.cuts: Cuts = {}
        self.wanted = wanted_outputs(message, signature)
        self.forms = output_forms(message, signature, regions) if message.outputs else ()
        self.size_bytes = sum(map(len, inputs.raw)) + OVERHEAD_BYTES
        if signature.padding:
            self._pad(limits)
        self.id = message.id
        self.arrived_at = now
        # When it began to wait, as exactly as traces need it where they are on.
        self.queued_at = now
        self.deadline = deadline
        self.answer = answer
        # Where the caller takes more than one response.
        self.responses = responses
        self.order = 0
        self.caller = caller
        self.version = checked_version(message.model_version) if message.model_version else 0
        self.carried: tuple[tuple[str, str | int], ...] = ()
        self.priority = priorities.default
        self.tenant = caller
        self.session = ""
        self.step: Step | None = None
        self.wire_step: Step | None = None
        if message.parameters:
            self.carried = carried_parameters(message.parameters)
            self.priority = priorities.level(message.parameters)
            if not caller:
                self.tenant = tenant_parameter(message.parameters)
            self.session = session_parameter(message.parameters)
            self.step = step_of(message.parameters)
        if self.step is None and model.signature.states:
            raise sequence_required(model.name)
        self.due_at = objectives.due_at(self.priority, now, deadline)
        self.objective_binds = objectives.bind(self.priority, now, deadline)
        self.key = self._key()

    @property
    def answered(self) -> bool:
        """True once it ended, or its caller went away."""
        return self.answer.done()

    def forget_objective(self, priority: int) -> None:
        """From now on only its deadline counts, and its class is another; not while it waits."""
        self.priority = priority
        self.objective_binds = False
        self.due_at = self.deadline

    @property
    def open_to_candidate(self) -> bool:
        """Whether a rollout's candidate may answer it: it names nothing that says otherwise."""
        return not (
            self.version
            or self.step is not None
            or self.key.decoupled
            or (self.carried and any(name == "channel" for name, _ in self.carried))
        )

    def try_candidate(self, version: int) -> None:
        """A rollout's candidate is asked first; before it waits."""
        self.version = version
        self.key = self.key._replace(version=version, candidate=True)

    def _pad(self, limits: Limits) -> None:
        padder = padder_of(self.model.signature)
        assert padder is not None
        self.padded = padder.padded(self.shapes)
        if self.padded == self.shapes:
            return
        self.cuts = padder.cuts(self.shapes, self.padded)
        size_bytes = padder.size_bytes(self.padded, self.raw)
        check_tensor_bytes(size_bytes, limits, "inputs")
        self.size_bytes = size_bytes + OVERHEAD_BYTES

    def join(self, sequence: int, wire_id: SequenceId) -> None:
        """The request is admitted as the next of a sequence, in whose queue it waits.

        Whatever else it asks for: all requests of a sequence share one queue, and none a batch.
        """
        assert self.step is not None
        self.wire_step = self.step._replace(id=wire_id)
        key = self.key
        rows = 1 if key.max_rows else 0
        self.key = QueueKey(key.model, 0, (), (), rows, 0, key.decoupled, sequence)

    def _key(self) -> QueueKey:
        model = self.model
        return QueueKey(
            model.name,
            self.version,
            self.carried,
            () if model.fixed_rows else tuple(shape[1:] for shape in self.padded),
            0 if model.signature.decoupled else model.signature.max_batch_size,
            model.id,
            model.signature.decoupled,
        )


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
    staleness_ms = max_staleness_ms(parameters)
    if staleness_ms is not None:
        carried.append((MAX_STALENESS_PARAMETER, staleness_ms))
    revision = min_revision(parameters)
    if revision:
        carried.append((MIN_REVISION_PARAMETER, revision))
    return tuple(carried)


def tenant_parameter(parameters: Any) -> str:
    """The tenant that a caller without an identity says it is; "" where it says nothing.

    Raises InvalidArgument (BAD_PARAMETER, BAD_NAME).
    """
    if "tenant" not in parameters:
        return ""
    choice = parameters["tenant"]
    if choice.WhichOneof("parameter_choice") != "string_param":
        raise _bad_parameter("tenant", "a string")
    return checked_name(choice.string_param, what="tenant") if choice.string_param else ""


def session_parameter(parameters: Any) -> str:
    """What a caller names the session that its requests belong to; "" where it does not.

    Raises InvalidArgument (BAD_PARAMETER).
    """
    if "session" not in parameters:
        return ""
    choice = parameters["session"]
    kind = choice.WhichOneof("parameter_choice")
    if kind not in ("string_param", "int64_param", "uint64_param"):
        raise _bad_parameter("session", "a string or an integer")
    return str(getattr(choice, kind))


def timeout_parameter_s(parameters: Any) -> float | None:
    """Seconds that the `timeout` parameter (microseconds) grants; None without one, or for 0.

    Raises InvalidArgument (BAD_PARAMETER).
    """
    microseconds = amount_in(parameters, "timeout", "microseconds")
    if not microseconds:
        return None
    return min(microseconds / MICROSECONDS, LONGEST_TIMEOUT_S)


def _bad_parameter(name: str, expected: str) -> InvalidArgument:
    return InvalidArgument(
        "BAD_PARAMETER", f"parameter {name!r} must be {expected}", field=f"parameters[{name}]"
    )
