"""A batch on its way through the replica: what was asked and what became of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from chassis.call import Leave, nothing
from chassis.errors import HeadraceError
from chassis.inputs import Inputs
from chassis.outputs import Forms
from chassis.padding import Cuts
from chassis.provenance import Provenance
from chassis.sequences import Step
from chassis.tensors import Signature, TensorSpec
from headrace.values import Value
from inference_service.sequences import Sequence
from inference_service.served import ServedModel

Output = tuple[TensorSpec, tuple[int, ...], bytes]


@dataclass(frozen=True, slots=True)
class Response:
    """One response of a decoupled model; `index` counts from 0, times are seconds."""

    index: int
    outputs: list[Output]
    infer_s: float
    output_s: float


def _nobody(_work: Work, _response: Response | None = None) -> None:
    return


@dataclass(eq=False, slots=True)
class Work:
    """One ModelInfer request, whole or a message of a stream.

    The event loop makes it, the executor fills in the second half, and then the loop reads it:
    the handoffs order the two, no field needs a lock. Times are seconds, spans except `deadline`
    and `queued_at`, which are points of the monotonic clock.
    """

    served: ServedModel
    signature: Signature
    request_id: str
    inputs: Inputs
    # Positions in the signature of the outputs asked for.
    wanted: tuple[int, ...]
    # How each of them travels; empty: as it is.
    forms: Forms = ()
    # What comes off the outputs because inputs were filled up.
    cuts: Cuts = field(default_factory=dict)
    # The version asked for; 0 for whichever serves.
    version: int = 0
    # How old the weights may be at most when its turn comes; None for any age.
    max_staleness_ms: int | None = None
    # Revision of the channel at which what answers must have begun to serve; for an unpinned one.
    min_revision: int = 0
    # Its place in a sequence of `caller`, None outside one.
    step: Step | None = None
    caller: str = ""
    deadline: float = math.inf
    size_bytes: int = 0
    # 0 where nothing was traced when it came.
    received_at: float = 0.0
    queued_at: float = 0.0
    # Called on the event loop once the work has ended.
    on_done: Callable[[Work], None] = _nobody
    # Called on the event loop with each response of a decoupled model, before `on_done`.
    on_response: Callable[[Work, Response], None] = _nobody
    # Whether the caller wants the end of several responses as a response of its own.
    empty_final: bool = False
    # Responses that reached the loop, and those that the caller has taken: the executor only reads.
    responses_made: int = 0
    responses_taken: int = 0
    # Ends what the caller's quota counts, where the work is a message of a stream.
    leave: Leave = nothing
    # Nobody waits for the answer any more. A hint: the executor may be past looking.
    abandoned: bool = False

    # The sequence of `step`, while the device works at it.
    sequence: Sequence | None = None
    version_text: str = ""
    provenance: Provenance | None = None
    outputs: list[Output] = field(default_factory=list)
    # What its sequence carries on, where it succeeds.
    states: list[Value] = field(default_factory=list)
    error: HeadraceError | None = None
    queue_s: float = 0.0
    input_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0
