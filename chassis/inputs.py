"""The way in: a ModelInfer request's tensors as raw bytes, checked against a signature.

Tensors come as raw contents, as typed contents or lie in shared memory; behind this they are all
the same. Every refusal names the input at fault, what was expected and the field of the message.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from chassis.errors import InvalidArgument
from chassis.limits import DEFAULT_LIMITS, Limits, check_tensor_bytes
from chassis.shared_memory import NO_REGIONS, REGION_PARAMETER, Regions, window_of
from chassis.tensors import ELEMENT_BYTES, Signature, TensorSpec, count_bytes_elements
from chassis.typed_contents import raw_from_typed
from protos.inference import grpc_service_pb2 as oip


@dataclass(slots=True)
class Inputs:
    """A request's tensors, checked against a signature.

    `raw` and `shapes` follow the signature's order; shapes include the batch dimension where the
    model has one. `rows` is the batch size, 1 for a model without. `typed` is how they came.
    """

    raw: list[bytes]
    shapes: list[tuple[int, ...]]
    rows: int
    typed: bool


def checked_inputs(
    request: oip.ModelInferRequest,
    signature: Signature,
    *,
    limits: Limits = DEFAULT_LIMITS,
    regions: Regions = NO_REGIONS,
) -> Inputs:
    """Reads and checks a request's tensors, those in shared memory too.

    `check_limits` comes before; of `limits` only the bytes that a tensor grows to matter here.
    Raises InvalidArgument naming the input at fault and what was expected: MISSING_INPUT,
    UNKNOWN_INPUT, DUPLICATE_INPUT, BAD_DATATYPE, BAD_SHAPE, BAD_BYTE_COUNT, BAD_CONTENTS,
    TOO_MANY_ROWS, TOO_MANY_BYTES, ROWS_DIFFER; and what `window_of` and `Window.read` raise.
    """
    specs = signature.inputs
    tensors = request.inputs[:]
    if len(tensors) != len(specs):
        _refuse_names(tensors, signature)
    contents = _contents(request, tensors)
    batches = signature.max_batch_size
    raws: list[bytes] = []
    shapes: list[tuple[int, ...]] = []
    typed, rows = False, 0
    for at, spec in enumerate(specs):
        tensor = tensors[at]
        if tensor.name != spec.name:
            at = _position(tensors, spec, signature)
            tensor = tensors[at]
        raw, shape = contents[at], tuple(tensor.shape[:])
        if tensor.datatype != spec.datatype:
            _refuse_datatype(tensor, spec, at)
        if not _fits(shape, spec.shape) or (batches and not shape[0]):
            _refuse_shape(shape, spec, batches, at)
        if tensor.parameters and REGION_PARAMETER in tensor.parameters:
            if raw is not None:
                _refuse_count(tensors, len(contents))
            raw = _raw_from_region(tensor, spec, shape, at, limits, regions)
        elif raw is None:
            typed = typed or tensor.HasField("contents")
            raw = _raw_from_typed(tensor, spec, shape, at, limits)
        elif tensor.HasField("contents"):
            _refuse_both(spec, at)
        elif spec.datatype == "BYTES":
            _check_elements(raw, spec, shape, _raw_field(tensors, at))
        elif len(raw) != math.prod(shape) * ELEMENT_BYTES[spec.datatype]:
            _refuse_byte_count(len(raw), spec, shape, _raw_field(tensors, at))
        if batches and shape[0] != rows:
            rows = _checked_rows(spec, shape[0], rows, batches, at)
        raws.append(raw)
        shapes.append(shape)
    return Inputs(raws, shapes, rows or 1, typed)


def _position(tensors: Sequence[Any], spec: TensorSpec, signature: Signature) -> int:
    """Where in the message an input is that is not in its place."""
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names) or spec.name not in names:
        _refuse_names(tensors, signature)
    return names.index(spec.name)


def _contents(request: Any, tensors: Sequence[Any]) -> Sequence[bytes | None]:
    """The raw contents of each input, None where it has none."""
    contents = request.raw_input_contents
    count = len(contents)
    if count == len(tensors):
        entries: Sequence[bytes] = contents[:]
        return entries
    if not count:
        return [None] * len(tensors)
    # Entries are only for the inputs that are not in shared memory, in order.
    shared = [REGION_PARAMETER in tensor.parameters for tensor in tensors]
    if count != shared.count(False):
        _refuse_count(tensors, count)
    left = iter(contents)
    return [None if skipped else next(left) for skipped in shared]


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    if len(shape) != len(expected):
        return False
    for size, wanted in zip(shape, expected, strict=True):
        if (size != wanted and wanted != -1) or size < 0:
            return False
    return True


def _raw_from_typed(
    tensor: Any, spec: TensorSpec, shape: tuple[int, ...], at: int, limits: Limits
) -> bytes:
    size_bytes = math.prod(shape) * ELEMENT_BYTES.get(spec.datatype, 0)
    check_tensor_bytes(size_bytes, limits, f"inputs[{at}].shape")
    if size_bytes and not tensor.HasField("contents"):
        raise InvalidArgument(
            "BAD_CONTENTS",
            f"input {spec.name!r} has no contents; expected raw_input_contents or contents",
            field=f"inputs[{at}]",
        )
    return raw_from_typed(tensor, shape, f"inputs[{at}]")


def _raw_from_region(
    tensor: Any,
    spec: TensorSpec,
    shape: tuple[int, ...],
    at: int,
    limits: Limits,
    regions: Regions,
) -> bytes:
    field = f"inputs[{at}]"
    if tensor.HasField("contents"):
        raise InvalidArgument(
            "BAD_CONTENTS",
            f"input {spec.name!r} has contents besides a region of shared memory; expected one",
            field=f"{field}.contents",
        )
    window = window_of(tensor.parameters, regions, field)
    assert window is not None
    element_bytes = ELEMENT_BYTES.get(spec.datatype)
    # Before a byte is read, so that a shape decides about memory only once it fits.
    if element_bytes and window.byte_size != math.prod(shape) * element_bytes:
        _refuse_byte_count(window.byte_size, spec, shape, window.size_field)
    check_tensor_bytes(window.byte_size, limits, window.size_field)
    raw = window.read()
    if spec.datatype == "BYTES":
        _check_elements(raw, spec, shape, field)
    return raw


def _check_elements(raw: bytes, spec: TensorSpec, shape: tuple[int, ...], field: str) -> None:
    held = count_bytes_elements(raw, name=spec.name, field=field)
    if held != math.prod(shape):
        raise InvalidArgument(
            "BAD_BYTE_COUNT",
            f"input {spec.name!r} holds {held} BYTES elements; shape {list(shape)} needs "
            f"{math.prod(shape)}",
            field=field,
        )


def _checked_rows(spec: TensorSpec, rows: int, before: int, most: int, at: int) -> int:
    if before:
        raise InvalidArgument(
            "ROWS_DIFFER",
            f"input {spec.name!r} has {rows} rows; the inputs before it have {before}",
            field=f"inputs[{at}].shape",
        )
    if rows > most:
        raise InvalidArgument(
            "TOO_MANY_ROWS",
            f"the request has {rows} rows; the model takes at most {most}",
            field=f"inputs[{at}].shape",
        )
    return rows


def _raw_field(tensors: Sequence[Any], at: int) -> str:
    before = sum(REGION_PARAMETER in tensor.parameters for tensor in tensors[:at])
    return f"raw_input_contents[{at - before}]"


def _refuse_byte_count(held: int, spec: TensorSpec, shape: tuple[int, ...], field: str) -> NoReturn:
    expected = math.prod(shape) * ELEMENT_BYTES[spec.datatype]
    raise InvalidArgument(
        "BAD_BYTE_COUNT",
        f"input {spec.name!r} holds {held} bytes; {spec.datatype} of shape {list(shape)} "
        f"needs {expected}",
        field=field,
    )


def _refuse_count(tensors: Sequence[Any], count: int) -> NoReturn:
    shared = sum(REGION_PARAMETER in tensor.parameters for tensor in tensors)
    outside = f", {shared} of them in shared memory," if shared else ""
    raise InvalidArgument(
        "BAD_CONTENTS",
        f"the request has {len(tensors)} inputs{outside} but {count} raw_input_contents; "
        f"expected {len(tensors) - shared}",
        field="raw_input_contents",
    )


def _refuse_datatype(tensor: Any, spec: TensorSpec, at: int) -> NoReturn:
    raise InvalidArgument(
        "BAD_DATATYPE",
        f"input {spec.name!r} has datatype {tensor.datatype[:16]!r}; expected {spec.datatype}",
        field=f"inputs[{at}].datatype",
    )


def _refuse_shape(shape: tuple[int, ...], spec: TensorSpec, batches: int, at: int) -> NoReturn:
    raise InvalidArgument(
        "BAD_SHAPE",
        f"input {spec.name!r} has shape {list(shape[:16])}; expected {list(spec.shape)} "
        f"(-1 is any size{', at least 1 of the first' if batches else ''})",
        field=f"inputs[{at}].shape",
    )


def _refuse_both(spec: TensorSpec, at: int) -> NoReturn:
    raise InvalidArgument(
        "BAD_CONTENTS",
        f"input {spec.name!r} has contents besides raw_input_contents; expected one of them",
        field=f"inputs[{at}].contents",
    )


def _refuse_names(tensors: Sequence[Any], signature: Signature) -> NoReturn:
    given = [tensor.name for tensor in tensors]
    known = [spec.name for spec in signature.inputs]
    expected = f"expected the inputs {', '.join(known)}"
    for at, name in enumerate(given):
        if name not in known:
            raise InvalidArgument(
                "UNKNOWN_INPUT",
                f"input {name[:64]!r} is unknown; {expected}",
                field=f"inputs[{at}].name",
            )
        if name in given[:at]:
            raise InvalidArgument(
                "DUPLICATE_INPUT",
                f"the request has {len(given)} inputs, some twice; {expected}",
                field=f"inputs[{at}].name",
            )
    missing = next(name for name in known if name not in given)
    raise InvalidArgument(
        "MISSING_INPUT", f"input {missing!r} is missing; {expected}", field="inputs"
    )
