"""An output as its highest values: strings "value:index" or "value:index:label", as Triton's.

Values are written as C++ does: integers as they are, others with six decimals. The highest comes
first, equal ones in order of their index, NaN last.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from chassis.tensors import ELEMENT_BYTES, decode_raw

CLASSIFIABLE = frozenset(ELEMENT_BYTES) - {"BOOL"}

# Above this many classes for each one wanted, the rest is set aside before sorting.
_PARTITION_FROM = 4


def classified(
    raw: bytes,
    datatype: str,
    shape: tuple[int, ...],
    *,
    classes: int,
    labels: tuple[str, ...] = (),
    batches: bool,
    name: str = "",
) -> tuple[tuple[int, ...], bytes]:
    """Shape and raw bytes of the BYTES tensor: [rows, k] where the model batches, else [k].

    A row is everything behind the batch dimension; k is `classes`, or the row's size if that is
    less. `labels` name the first classes. Raises InvalidArgument (BAD_BYTE_COUNT).
    """
    array = _numbers(decode_raw(raw, datatype, shape, name=name), datatype)
    rows = shape[0] if batches and shape else 1
    table = array.reshape(rows, array.size // rows if rows else 0)
    count = min(classes, table.shape[1])
    written = "{:f}:{}" if array.dtype.kind == "f" else "{}:{}"
    parts = []
    for values in table:
        for index in _highest(values, count).tolist():
            text = written.format(values[index].item(), index)
            if index < len(labels) and labels[index]:
                text = f"{text}:{labels[index]}"
            content = text.encode()
            parts.append(len(content).to_bytes(4, "little") + content)
    return (rows, count) if batches and shape else (count,), b"".join(parts)


def _numbers(array: npt.NDArray[np.generic], datatype: str) -> npt.NDArray[np.generic]:
    if datatype == "BF16":
        # The upper half of a float32.
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.astype(np.float32) if datatype == "FP16" else array


def _highest(values: npt.NDArray[np.generic], count: int) -> npt.NDArray[np.intp]:
    """Indices of the `count` highest values, in order."""
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), -np.inf, values)
    size = len(values)
    found = np.arange(size)
    if count and size > _PARTITION_FROM * count:
        least = np.partition(values, size - count)[size - count]
        found = np.flatnonzero(values >= least)
    # Backwards, sorted, backwards: descending, and stable.
    order = np.argsort(values[found][::-1], kind="stable")[::-1]
    return found[len(found) - 1 - order][:count]
