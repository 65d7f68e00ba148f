"""From a ModelInfer request to `Work`, or to a refusal that says what was expected.

Decides what a request may ask of this replica: a model it serves, the channel it follows, a
version, outputs by name, a timeout. Runs on the event loop and never waits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from chassis.errors import NotFound, Unavailable
from chassis.inputs import Inputs, checked_inputs
from chassis.limits import DEFAULT_LIMITS, Limits, check_limits, check_tensor_bytes
from chassis.oip import checked_version
from chassis.outputs import output_forms, wanted_outputs
from chassis.padding import Cuts, padder_of
from chassis.parameters import amount_in
from chassis.provenance import max_staleness_ms, min_revision
from chassis.sequences import sequence_required, step_of
from chassis.shared_memory import NO_REGIONS, Regions
from chassis.stream_errors import EMPTY_FINAL_PARAMETER
from chassis.tensors import Signature
from inference_service.served import ServedModel
from inference_service.work import Work
from protos.inference import grpc_service_pb2 as oip


class Intake:
    """The models of a replica, as requests name them."""

    def __init__(
        self, models: Mapping[str, ServedModel], *, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self._models = models
        self._limits = limits

    def model(self, name: str) -> ServedModel:
        """The served model of that name. Raises NotFound (MODEL_NOT_FOUND)."""
        served = self._models.get(name)
        if served is None:
            raise NotFound(
                "MODEL_NOT_FOUND",
                f"model {name[:128]!r} is not served here; expected one of "
                + ", ".join(sorted(self._models)),
                field="model_name",
            )
        return served

    def work_of(
        self,
        request: oip.ModelInferRequest,
        remaining_s: float | None,
        caller: str = "",
        regions: Regions = NO_REGIONS,
    ) -> Work:
        """The work a request asks for; `remaining_s` is what the caller's deadline leaves.

        `regions` are the shared memory it may name. Raises InvalidArgument, NotFound
        (MODEL_NOT_FOUND, CHANNEL_NOT_SERVED, REGION_NOT_FOUND) and Unavailable (MODEL_NOT_READY).
        """
        served = self.model(request.model_name)
        check_limits(request, self._limits)
        signature = served.signature
        if signature is None:
            raise Unavailable("MODEL_NOT_READY", f"model {served.name!r} has no version loaded yet")
        version = checked_version(request.model_version)
        deadline = math.inf if remaining_s is None else time.monotonic() + remaining_s
        staleness_ms, least_revision = None, 0
        if request.parameters:
            _check_channel(request.parameters, served)
            staleness_ms = max_staleness_ms(request.parameters)
            least_revision = min_revision(request.parameters) or 0
            deadline = min(deadline, time.monotonic() + _timeout_s(request.parameters))
        step = step_of(request.parameters)
        if step is None and signature.states:
            raise sequence_required(served.name)
        inputs = checked_inputs(request, signature, limits=self._limits, regions=regions)
        wanted = wanted_outputs(request, signature)
        cuts = self._pad(inputs, signature) if signature.padding else {}
        return Work(
            served=served,
            signature=signature,
            request_id=request.id,
            inputs=inputs,
            wanted=wanted,
            forms=output_forms(request, signature, regions) if request.outputs else (),
            cuts=cuts,
            version=version,
            max_staleness_ms=staleness_ms,
            min_revision=least_revision,
            step=step,
            caller=caller,
            deadline=deadline,
            size_bytes=sum(map(len, inputs.raw)),
            empty_final=_wants_empty_final(request.parameters),
        )

    def _pad(self, inputs: Inputs, signature: Signature) -> Cuts:
        padder = padder_of(signature)
        assert padder is not None
        padded = padder.padded(inputs.shapes)
        check_tensor_bytes(padder.size_bytes(padded, inputs.raw), self._limits, "inputs")
        rows = (inputs.rows,) if signature.max_batch_size else ()
        cuts = padder.cuts(inputs.shapes, padded)
        for at, part in enumerate(zip(inputs.raw, inputs.shapes, strict=True)):
            inputs.raw[at] = padder.joined(at, [part], rows, padded[at])
        inputs.shapes = padded
        return cuts


def _wants_empty_final(parameters: Mapping[str, oip.InferParameter]) -> bool:
    name = EMPTY_FINAL_PARAMETER
    return name in parameters and parameters[name].bool_param


def _check_channel(parameters: Mapping[str, oip.InferParameter], served: ServedModel) -> None:
    if "channel" not in parameters:
        return
    channel = parameters["channel"].string_param
    if channel != served.channel:
        raise NotFound(
            "CHANNEL_NOT_SERVED",
            f"model {served.name!r} follows the channel {served.channel!r} here, not "
            f"{channel[:128]!r}",
            field="parameters[channel]",
        )


def _timeout_s(parameters: Mapping[str, oip.InferParameter]) -> float:
    # 0 and absent are no timeout.
    microseconds = amount_in(parameters, "timeout", "microseconds")
    return microseconds / 1e6 if microseconds else math.inf
