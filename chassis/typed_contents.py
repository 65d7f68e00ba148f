"""Tensors as the lists of InferTensorContents, and as raw bytes: what "typed" means on the wire."""

from __future__ import annotations

from typing import Any

import numpy as np

from chassis.errors import InvalidArgument
from chassis.tensors import NUMPY_TYPES, decode_raw, element_count

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


def raw_from_typed(tensor: Any, shape: tuple[int, ...], field: str) -> bytes:
    """The raw bytes of a tensor message's contents; `field` is the path to the tensor.

    Raises InvalidArgument (BAD_CONTENTS, BAD_BYTE_COUNT).
    """
    datatype = tensor.datatype
    holder = TYPED_FIELDS.get(datatype)
    if holder is None:
        raise _bad_contents(
            tensor, f"{datatype[:16]} travels only in raw_input_contents", f"{field}.contents"
        )
    for descriptor, _ in tensor.contents.ListFields():
        if descriptor.name != holder:
            raise _bad_contents(
                tensor,
                f"{descriptor.name} is set, but {datatype} travels in {holder}",
                f"{field}.contents.{descriptor.name}",
            )
    values = getattr(tensor.contents, holder)
    count = element_count(shape)
    if len(values) != count:
        raise InvalidArgument(
            "BAD_BYTE_COUNT",
            f"input {tensor.name[:64]!r} holds {len(values)} values in {holder}; shape "
            f"{list(shape)} needs {count}",
            field=f"{field}.contents.{holder}",
        )
    if datatype == "BYTES":
        return b"".join([len(value).to_bytes(4, "little") + value for value in values])
    try:
        return np.fromiter(values, NUMPY_TYPES[datatype], count).tobytes()
    except OverflowError:
        raise _bad_contents(
            tensor,
            f"a value is outside the range of {datatype}",
            f"{field}.contents.{holder}",
        ) from None


def fill_typed(tensor: Any, datatype: str, shape: tuple[int, ...], raw: bytes) -> None:
    """Sets the contents of a tensor message; `datatype` must have a field."""
    values = decode_raw(raw, datatype, shape, name=tensor.name)
    getattr(tensor.contents, TYPED_FIELDS[datatype]).extend(values.reshape(-1).tolist())


def _bad_contents(tensor: Any, what: str, field: str) -> InvalidArgument:
    return InvalidArgument("BAD_CONTENTS", f"input {tensor.name[:64]!r}: {what}", field=field)
