"""Values of every datatype, its extremes included, and where its typed contents live."""

from __future__ import annotations

import numpy as np
from ml_dtypes import bfloat16

_FLOATS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
_INTEGERS = {
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
}
# The field of InferTensorContents, as the protocol lays down; FP16 and BF16 have none.
TYPED_FIELDS = {
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


def values(datatype: str) -> np.ndarray:
    """Two rows of four; the extremes, signed zero and NaN among them."""
    if datatype == "BYTES":
        texts = [b"", b"a", "\u00e9\u4e16".encode(), b"\0\xff", b"x" * 300, b"{}", b" ", b"\n"]
        return np.array(texts, dtype=np.object_).reshape(2, 4)
    if datatype == "BOOL":
        return np.array([True, False, True, True, False, False, True, False]).reshape(2, 4)
    if datatype == "BF16":
        return np.array([0, -0.0, 1.5, -2, np.inf, -np.inf, 2.0**100, 3], bfloat16).reshape(2, 4)
    if datatype in _FLOATS:
        kind = _FLOATS[datatype]
        ends = np.finfo(kind)
        row = [0, -0.0, 1.5, ends.max, ends.min, ends.tiny, np.inf, np.nan]
        return np.array(row, kind).reshape(2, 4)
    kind = _INTEGERS[datatype]
    ends = np.iinfo(kind)
    return np.array([ends.min, ends.max, 0, 1, 2, 3, 5, 7], kind).reshape(2, 4)


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Equal shapes and values; NaN equals NaN."""
    if found.shape != wanted.shape:
        return False
    if wanted.dtype.kind == "f":
        return bool(np.array_equal(found, wanted, equal_nan=True))
    return found.tolist() == wanted.tolist()
