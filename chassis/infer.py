"""The door for inference messages: ModelInfer requests and replies as raw tensors and back.

It knows signatures and bytes; it decides nothing. Requests and replies are "raw"
(`raw_*_contents`) or "typed" (`contents`). A typed request gets a typed reply, except where an
output has no typed form (FP16, BF16) or goes into shared memory: then the whole reply is raw,
because clients tell the two apart by the reply, not by the tensor. As in Triton, a raw reply has an
entry for each output, empty for one that lies in shared memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chassis.errors import InvalidArgument
from chassis.outputs import Forms
from chassis.provenance import Provenance
from chassis.shared_memory import REGION_PARAMETER
from chassis.tensors import TensorSpec, datatype_of, decode_raw, encode_raw, split_bytes_elements
from chassis.typed_contents import TYPED_FIELDS, fill_typed, raw_from_typed
from protos.inference import grpc_service_pb2 as oip


def infer_reply(
    *,
    model: str,
    version: str,
    request_id: str,
    outputs: Sequence[tuple[TensorSpec, tuple[int, ...], bytes]],
    typed: bool = False,
    forms: Forms = (),
    provenance: Provenance | None = None,
) -> oip.ModelInferResponse:
    """A reply with (spec, shape, raw bytes) outputs, typed if `typed` and all of them can be.

    `forms`, of the same order, tells how each travels; empty: as it is. `provenance`, if known, is
    told in its parameters. Raises what `Window.write` raises.
    """
    reply = oip.ModelInferResponse(model_name=model, model_version=version, id=request_id)
    if provenance is not None:
        provenance.write(reply.parameters)
    if forms or typed:
        _add_formed(reply, outputs, forms or (None,) * len(outputs), typed)
        return reply
    for spec, shape, raw in outputs:
        reply.outputs.add(name=spec.name, datatype=spec.datatype, shape=shape)
        reply.raw_output_contents.append(raw)
    return reply


def _add_formed(
    reply: Any,
    outputs: Sequence[tuple[TensorSpec, tuple[int, ...], bytes]],
    forms: Forms,
    typed: bool,
) -> None:
    datatypes = [
        spec.datatype if form is None else form.datatype(spec)
        for (spec, _, _), form in zip(outputs, forms, strict=True)
    ]
    typed = (
        typed
        and all(datatype in TYPED_FIELDS for datatype in datatypes)
        and all(form is None or form.window is None for form in forms)
    )
    for (spec, shape, raw), form, datatype in zip(outputs, forms, datatypes, strict=True):
        if form is not None:
            shape, raw = form.applied(spec, shape, raw)
        tensor = reply.outputs.add(name=spec.name, datatype=datatype, shape=shape)
        if form is not None and form.window is not None:
            form.window.write(raw, spec.name)
            form.window.tell(tensor.parameters, len(raw))
            raw = b""
        if typed:
            fill_typed(tensor, datatype, shape, raw)
        else:
            reply.raw_output_contents.append(raw)


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
    """A raw or typed reply's outputs as numpy arrays by name; none that lies in shared memory."""
    arrays = {}
    raw_contents = iter(reply.raw_output_contents)
    for tensor in reply.outputs:
        if tensor.HasField("contents"):
            raw = raw_from_typed(tensor, tuple(tensor.shape), tensor.name)
        else:
            raw = next(raw_contents, b"")
        if REGION_PARAMETER in tensor.parameters:
            continue
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
