"""A tensor's elements as JSON values and as the raw bytes that OIP messages carry.

Numbers are taken as their datatype can hold them and never rounded to an integer; values that are
not finite are "NaN", "Infinity" and "-Infinity", which is valid JSON and what protobuf writes.
FP16 and BF16 travel only as binary data, as at Triton.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from chassis.errors import InvalidArgument
from chassis.tensors import NUMPY_TYPES, element_count, split_bytes_elements

_NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_BINARY_ONLY = ("FP16", "BF16")
_INTEGERS = frozenset(name for name in NUMPY_TYPES if "INT" in name)
_FLOATS = ("FP32", "FP64")
# Integers of fewer bits are compared as an array of these.
WIDEST_BITS = 64
# Longest list of values that is not worth an array.
_FEW = 32


def raw_of(values: list[Any], datatype: str, shape: Sequence[int], path: str) -> bytes:
    """Raw bytes of `values`, flat or nested as `shape` says.

    `path` is the input's, for the sentence. Raises InvalidArgument (BAD_SHAPE, BAD_CONTENTS,
    BAD_DATATYPE, BAD_BYTE_COUNT).
    """
    if datatype not in NUMPY_TYPES:
        raise InvalidArgument(
            "BAD_DATATYPE",
            f"{path}.datatype is {datatype[:16]!r}; expected one of {', '.join(NUMPY_TYPES)}",
            field=f"{path}.datatype",
        )
    if datatype in _BINARY_ONLY:
        raise InvalidArgument(
            "BAD_CONTENTS",
            f"{path}: {datatype} travels only as binary data",
            field=f"{path}.data",
        )
    expected = element_count(shape)
    flat = flattened(values, shape, path)
    if len(flat) != expected:
        raise InvalidArgument(
            "BAD_BYTE_COUNT",
            f"{path}.data holds {len(flat)} values; shape {list(shape[:16])} needs {expected}",
            field=f"{path}.data",
        )
    return encoded(flat, datatype, path)


def flattened(values: list[Any], shape: Sequence[int], path: str) -> list[Any]:
    """Elements in row-major order. Raises InvalidArgument (BAD_SHAPE)."""
    if not values or type(values[0]) is not list:
        return values
    level = [values]
    for size in shape:
        if any(type(part) is not list or len(part) != size for part in level):
            raise InvalidArgument(
                "BAD_SHAPE",
                f"{path}.data is not nested as shape {list(shape[:16])} says; expected that or a "
                "flat list",
                field=f"{path}.data",
            )
        level = list(itertools.chain.from_iterable(level))
    return level


def encoded(flat: list[Any], datatype: str, path: str) -> bytes:
    """Raw bytes of elements. Raises InvalidArgument (BAD_CONTENTS)."""
    kinds = set(map(type, flat))
    if datatype in _INTEGERS and kinds <= {int}:
        return _integers(flat, datatype, path)
    if datatype in _FLOATS:
        if str in kinds:
            flat = [
                _NOT_FINITE.get(value, value) if type(value) is str else value for value in flat
            ]
            kinds = set(map(type, flat))
        if kinds <= {int, float}:
            return _reals(flat, datatype, path)
    if datatype == "BOOL" and kinds <= {bool}:
        return bytes(flat)
    if datatype == "BYTES" and kinds <= {str}:
        return _texts(flat, path)
    raise InvalidArgument(
        "BAD_CONTENTS", f"{path}.data holds a value that is no {datatype}", field=f"{path}.data"
    )


def _integers(flat: list[int], datatype: str, path: str) -> bytes:
    dtype = NUMPY_TYPES[datatype]
    bits = 8 * dtype.itemsize
    least, beyond = (0, 2**bits) if dtype.kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    if bits == WIDEST_BITS:
        if flat and not (least <= min(flat) and max(flat) < beyond):
            raise _out_of_range(datatype, path)
        return np.array(flat, dtype=dtype).tobytes()
    try:
        exact = np.array(flat, dtype=np.int64)
    except OverflowError:
        raise _out_of_range(datatype, path) from None
    if len(flat) and not (least <= exact.min() and exact.max() < beyond):
        raise _out_of_range(datatype, path)
    return exact.astype(dtype).tobytes()


def _reals(flat: list[float], datatype: str, path: str) -> bytes:
    try:
        exact = np.array(flat, dtype=np.float64)
    except OverflowError:
        raise _out_of_range(datatype, path) from None
    if datatype == "FP64":
        return exact.tobytes()
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    if not np.isfinite(rounded).all() and (np.isinf(rounded) & ~np.isinf(exact)).any():
        raise _out_of_range(datatype, path)
    return rounded.tobytes()


def _texts(flat: list[str], path: str) -> bytes:
    try:
        elements = [text.encode() for text in flat]
    except UnicodeEncodeError:
        raise InvalidArgument(
            "BAD_CONTENTS", f"{path}.data holds a text that is not Unicode", field=f"{path}.data"
        ) from None
    return b"".join([len(element).to_bytes(4, "little") + element for element in elements])


def _out_of_range(datatype: str, path: str) -> InvalidArgument:
    return InvalidArgument(
        "BAD_CONTENTS",
        f"{path}.data holds a value outside the range of {datatype}",
        field=f"{path}.data",
    )


def values_of(raw: bytes, datatype: str, name: str) -> Any:
    """A flat list of JSON values, or an array that orjson writes as one.

    Raises InvalidArgument (NOT_JSON) where only binary data can carry it.
    """
    if datatype == "BYTES":
        try:
            return [element.decode() for element in split_bytes_elements(raw, name=name)]
        except UnicodeDecodeError:
            raise _not_json(name, "holds bytes that are no UTF-8 text") from None
    if datatype in _BINARY_ONLY:
        raise _not_json(name, f"is {datatype}, which JSON cannot carry")
    array = np.frombuffer(raw, dtype=NUMPY_TYPES[datatype])
    if datatype in _FLOATS and not np.isfinite(array).all():
        return _with_words(array)
    # An array, so that FP32 is written with its own digits; few other values cost less as a list.
    return array if len(array) > _FEW or datatype == "FP32" else array.tolist()


def _with_words(array: Any) -> list[Any]:
    values = list(array)
    for index in np.flatnonzero(~np.isfinite(array)).tolist():
        value = values[index]
        values[index] = "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return values


def _not_json(name: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        "NOT_JSON", f"output {name!r} {why}; ask for it as binary data", field="outputs"
    )
