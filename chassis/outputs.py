"""Which outputs a request wants, and in which form each travels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chassis.classification import CLASSIFIABLE, classified
from chassis.errors import InvalidArgument
from chassis.shared_memory import REGION_PARAMETER, Regions, Window, window_of
from chassis.tensors import Signature, TensorSpec

CLASSIFICATION_PARAMETER = "classification"


@dataclass(frozen=True, slots=True)
class Form:
    """How an output travels that is not sent as the model gave it.

    As its highest `classes` values if that is not 0, named by `labels`; or into `window`.
    `batches`: whether its first dimension is the batch.
    """

    batches: bool
    classes: int = 0
    labels: tuple[str, ...] = ()
    window: Window | None = None

    def datatype(self, spec: TensorSpec) -> str:
        """The datatype that travels."""
        return "BYTES" if self.classes else spec.datatype

    def applied(
        self, spec: TensorSpec, shape: tuple[int, ...], raw: bytes
    ) -> tuple[tuple[int, ...], bytes]:
        """Shape and raw bytes that travel; what goes into a window is not written yet."""
        if not self.classes:
            return shape, raw
        return classified(
            raw,
            spec.datatype,
            shape,
            classes=self.classes,
            labels=self.labels,
            batches=self.batches,
            name=spec.name,
        )


Forms = tuple[Form | None, ...]


def wanted_outputs(request: Any, signature: Signature) -> tuple[int, ...]:
    """Positions in the signature of the outputs asked for, in the order asked; all if none is.

    Raises InvalidArgument (UNKNOWN_OUTPUT, DUPLICATE_OUTPUT).
    """
    specs = signature.outputs
    if not request.outputs:
        return tuple(range(len(specs)))
    known = {spec.name: position for position, spec in enumerate(specs)}
    wanted: list[int] = []
    for at, output in enumerate(request.outputs):
        position = known.get(output.name)
        if position is None:
            raise InvalidArgument(
                "UNKNOWN_OUTPUT",
                f"output {output.name[:64]!r} is unknown; expected any of {', '.join(known)}",
                field=f"outputs[{at}].name",
            )
        if position in wanted:
            raise InvalidArgument(
                "DUPLICATE_OUTPUT",
                f"output {output.name[:64]!r} is asked for twice; expected each at most once",
                field=f"outputs[{at}].name",
            )
        wanted.append(position)
    return tuple(wanted)


def output_forms(request: Any, signature: Signature, regions: Regions) -> Forms:
    """The form of each output asked for, in the order asked; empty if all are sent as they are.

    To be called once `wanted_outputs` has passed. Raises InvalidArgument (BAD_CLASSIFICATION,
    BAD_REGION, and what `window_of` raises).
    """
    if not any(output.parameters for output in request.outputs):
        return ()
    specs = {spec.name: spec for spec in signature.outputs}
    forms = tuple(
        _form(output.parameters, specs[output.name], signature, regions, f"outputs[{at}]")
        for at, output in enumerate(request.outputs)
    )
    return forms if any(forms) else ()


def _form(
    parameters: Any, spec: TensorSpec, signature: Signature, regions: Regions, field: str
) -> Form | None:
    batches = bool(signature.max_batch_size)
    if CLASSIFICATION_PARAMETER in parameters:
        if REGION_PARAMETER in parameters:
            raise InvalidArgument(
                "BAD_REGION",
                f"output {spec.name!r} is asked for as classes and in shared memory; expected one",
                field=f"{field}.parameters[{REGION_PARAMETER}]",
            )
        classes = _classes(parameters[CLASSIFICATION_PARAMETER], spec, field)
        return Form(batches, classes, dict(signature.labels).get(spec.name, ()))
    window = window_of(parameters, regions, field)
    if window is not None and signature.decoupled:
        raise InvalidArgument(
            "BAD_REGION",
            f"output {spec.name!r}: each response would overwrite the one before; ask a model "
            "with several responses for outputs in its replies",
            field=f"{field}.parameters[{REGION_PARAMETER}]",
        )
    return None if window is None else Form(batches, window=window)


def _classes(choice: Any, spec: TensorSpec, field: str) -> int:
    field = f"{field}.parameters[{CLASSIFICATION_PARAMETER}]"
    if spec.datatype not in CLASSIFIABLE:
        raise InvalidArgument(
            "BAD_CLASSIFICATION",
            f"output {spec.name!r} is {spec.datatype}, which has no highest values; expected "
            "numbers",
            field=field,
        )
    kind = choice.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param") or getattr(choice, kind) < 1:
        raise InvalidArgument(
            "BAD_CLASSIFICATION",
            f"output {spec.name!r}: parameter 'classification' must be an integer of 1 or more",
            field=field,
        )
    return int(getattr(choice, kind))
