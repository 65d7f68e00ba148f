"""The door for inference messages: ModelInfer requests and replies as raw tensors and back.

Used by the gateway (per request), the replica (per batch) and the client. It knows signatures and
bytes; it decides nothing. Requests and replies are "raw" (`raw_*_contents`) or "typed"
(`contents`), and a typed request gets a typed reply.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chassis.errors import InvalidArgument
from chassis.tensors import (
    ELEMENT_BYTES,
    NUMPY_TYPES,
    Signature,
    TensorSpec,
    datatype_of,
    decode_raw,
    element_count,
    encode_raw,
    split_bytes_elements,
)
from protos.inference import grpc_service_pb2 as oip

# Which field of InferTensorContents holds a datatype; FP16 and BF16 travel only raw.
TYPED_FIELDS: dict[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


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


def checked_inputs(request: oip.ModelInferRequest, signature: Signature) -> Inputs:
    """Reads and checks a request's tensors.

    Raises InvalidArgument naming the input at fault and what was expected: MISSING_INPUT,
    UNKNOWN_INPUT, DUPLICATE_INPUT, BAD_DATATYPE, BAD_SHAPE, BAD_BYTE_COUNT, BAD_CONTENTS,
    TOO_MANY_ROWS, ROWS_DIFFER.
    """
    raw_contents = request.raw_input_contents
    tensors = request.inputs
    if len(tensors) != len(signature.inputs):
        _refuse_names(tensors, signature)
    if raw_contents and len(raw_contents) != len(tensors):
        raise InvalidArgument(
            "BAD_CONTENTS",
            f"the request has {len(tensors)} inputs but {len(raw_contents)} raw_input_contents; "
            "expected one for each input",
            field="raw_input_contents",
        )
    by_name = {tensor.name: index for index, tensor in enumerate(tensors)}
    found = Inputs([], [], 0, not raw_contents)
    for spec in signature.inputs:
        index = by_name.get(spec.name)
        if index is None:
            _refuse_names(tensors, signature)
        else:
            raw = raw_contents[index] if raw_contents else None
            _add_input(found, tensors[index], raw, spec, bool(signature.max_batch_size))
    _check_rows(found, signature)
    return found


def _add_input(
    found: Inputs, tensor: Any, raw: bytes | None, spec: TensorSpec, batches: bool
) -> None:
    shape = tuple(tensor.shape)
    if tensor.datatype != spec.datatype:
        raise InvalidArgument(
            "BAD_DATATYPE",
            f"input {spec.name!r} has datatype {tensor.datatype[:16]!r}; expected {spec.datatype}",
            field=spec.name,
        )
    if shape != spec.shape or -1 in shape:
        _check_shape(shape, spec)
    found.shapes.append(shape)
    if batches:
        rows = shape[0]
        if found.rows not in (0, rows):
            raise InvalidArgument(
                "ROWS_DIFFER",
                f"input {spec.name!r} has {rows} rows; the inputs before it have {found.rows}",
                field=spec.name,
            )
        found.rows = rows
    else:
        found.rows = 1
    if raw is None:
        found.raw.append(_raw_from_typed(tensor, shape))
        return
    if tensor.HasField("contents"):
        raise InvalidArgument(
            "BAD_CONTENTS",
            f"input {spec.name!r} has contents besides raw_input_contents; expected one of them",
            field=spec.name,
        )
    _check_byte_count(raw, spec, shape)
    found.raw.append(raw)


def _check_shape(shape: tuple[int, ...], spec: TensorSpec) -> None:
    fits = len(shape) == len(spec.shape) and all(
        size > 0 and expected in (size, -1)
        for size, expected in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise InvalidArgument(
            "BAD_SHAPE",
            f"input {spec.name!r} has shape {list(shape[:16])}; expected {list(spec.shape)} "
            "(-1 is any positive size)",
            field=spec.name,
        )


def _check_byte_count(raw: bytes, spec: TensorSpec, shape: tuple[int, ...]) -> None:
    element_bytes = ELEMENT_BYTES.get(spec.datatype)
    if element_bytes is None:
        decode_raw(raw, spec.datatype, shape, name=spec.name)
        return
    expected = element_count(shape) * element_bytes
    if len(raw) != expected:
        raise InvalidArgument(
            "BAD_BYTE_COUNT",
            f"input {spec.name!r} holds {len(raw)} bytes; {spec.datatype} of shape {list(shape)} "
            f"needs {expected}",
            field=spec.name,
        )


def _check_rows(found: Inputs, signature: Signature) -> None:
    if signature.max_batch_size and found.rows > signature.max_batch_size:
        raise InvalidArgument(
            "TOO_MANY_ROWS",
            f"the request has {found.rows} rows; the model takes at most "
            f"{signature.max_batch_size}",
            field=signature.inputs[0].name,
        )


def _refuse_names(tensors: Iterable[Any], signature: Signature) -> None:
    given = [tensor.name[:64] for tensor in tensors]
    known = [spec.name for spec in signature.inputs]
    expected = f"expected the inputs {', '.join(known)}"
    for name in given[: len(known) + 1]:
        if name not in known:
            raise InvalidArgument(
                "UNKNOWN_INPUT", f"input {name!r} is unknown; {expected}", field="inputs"
            )
    for name in known:
        if name not in given:
            raise InvalidArgument(
                "MISSING_INPUT", f"input {name!r} is missing; {expected}", field="inputs"
            )
    raise InvalidArgument(
        "DUPLICATE_INPUT",
        f"the request has {len(given)} inputs, some twice; {expected}",
        field="inputs",
    )


def _raw_from_typed(tensor: Any, shape: tuple[int, ...]) -> bytes:
    field = TYPED_FIELDS.get(tensor.datatype)
    if field is None:
        raise InvalidArgument(
            "BAD_CONTENTS",
            f"input {tensor.name!r}: {tensor.datatype} travels only in raw_input_contents",
            field=tensor.name,
        )
    values = getattr(tensor.contents, field)
    if len(values) != element_count(shape):
        raise InvalidArgument(
            "BAD_BYTE_COUNT",
            f"input {tensor.name!r} holds {len(values)} values in {field}; shape {list(shape)} "
            f"needs {element_count(shape)}",
            field=tensor.name,
        )
    if tensor.datatype == "BYTES":
        return b"".join(len(value).to_bytes(4, "little") + value for value in values)
    try:
        return np.array(list(values), dtype=NUMPY_TYPES[tensor.datatype]).tobytes()
    except OverflowError:
        raise InvalidArgument(
            "BAD_CONTENTS",
            f"input {tensor.name!r} holds a value outside the range of {tensor.datatype}",
            field=tensor.name,
        ) from None


def wanted_outputs(request: oip.ModelInferRequest, signature: Signature) -> tuple[int, ...]:
    """Positions in the signature of the outputs asked for, in the order asked; all if none is.

    Raises InvalidArgument (UNKNOWN_OUTPUT).
    """
    if not request.outputs:
        return tuple(range(len(signature.outputs)))
    known = [spec.name for spec in signature.outputs]
    for output in request.outputs:
        if output.name not in known:
            raise InvalidArgument(
                "UNKNOWN_OUTPUT",
                f"output {output.name[:64]!r} is unknown; expected any of {', '.join(known)}",
                field="outputs",
            )
    return tuple(known.index(output.name) for output in request.outputs)


def infer_reply(
    *,
    model: str,
    version: str,
    request_id: str,
    outputs: Sequence[tuple[TensorSpec, Sequence[int], bytes]],
    typed: bool = False,
) -> oip.ModelInferResponse:
    """A reply with (spec, shape, raw bytes) outputs; typed contents if `typed`."""
    reply = oip.ModelInferResponse(model_name=model, model_version=version, id=request_id)
    for spec, shape, raw in outputs:
        tensor = reply.outputs.add(name=spec.name, datatype=spec.datatype, shape=shape)
        if typed and spec.datatype in TYPED_FIELDS:
            values = decode_raw(raw, spec.datatype, shape, name=spec.name)
            getattr(tensor.contents, TYPED_FIELDS[spec.datatype]).extend(
                values.reshape(-1).tolist()
            )
        else:
            reply.raw_output_contents.append(raw)
    return reply


def infer_request(
    *,
    model: str,
    version: str = "",
    request_id: str = "",
    inputs: Sequence[tuple[str, str, tuple[int, ...], bytes]],
    outputs: Sequence[str] = (),
) -> oip.ModelInferRequest:
    """A request with raw (name, datatype, shape, bytes) inputs."""
    request = oip.ModelInferRequest(
        model_name=model,
        model_version=version,
        id=request_id,
        raw_input_contents=[raw for _, _, _, raw in inputs],
    )
    for name, datatype, shape, _ in inputs:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def encoded_inputs(arrays: Mapping[str, Any]) -> list[tuple[str, str, tuple[int, ...], bytes]]:
    """numpy arrays by name as `infer_request` takes them. Raises InvalidArgument (BAD_DATATYPE)."""
    inputs = []
    for name, value in arrays.items():
        array = np.asarray(value)
        datatype = datatype_of(array)
        inputs.append((name, datatype, array.shape, encode_raw(array, datatype)))
    return inputs


def decoded_outputs(reply: oip.ModelInferResponse) -> dict[str, Any]:
    """A raw or typed reply's outputs as numpy arrays by name."""
    arrays = {}
    raw_contents = iter(reply.raw_output_contents)
    for tensor in reply.outputs:
        if tensor.HasField("contents"):
            raw = _raw_from_typed(tensor, tuple(tensor.shape))
        else:
            raw = next(raw_contents, b"")
        arrays[tensor.name] = decode_raw(raw, tensor.datatype, tensor.shape, name=tensor.name)
    return arrays


def split_rows(raw: bytes, datatype: str, rows: Sequence[int], *, name: str) -> list[bytes]:
    """Cuts a batch's raw output into consecutive parts of `rows` rows each.

    Raises InvalidArgument (BAD_BYTE_COUNT) where the bytes do not divide.
    """
    total = sum(rows)
    if datatype == "BYTES":
        elements = split_bytes_elements(raw, name=name)
        cells = [len(element).to_bytes(4, "little") + element for element in elements]
        per_row = len(cells) // max(total, 1)
        parts, at = [], 0
        for count in rows:
            parts.append(b"".join(cells[at : at + count * per_row]))
            at += count * per_row
        return parts
    row_bytes, rest = divmod(len(raw), total)
    if rest:
        raise InvalidArgument(
            "BAD_BYTE_COUNT", f"output {name!r} holds {len(raw)} bytes for {total} rows"
        )
    parts, at = [], 0
    for count in rows:
        end = at + count * row_bytes
        parts.append(raw[at:end])
        at = end
    return parts
