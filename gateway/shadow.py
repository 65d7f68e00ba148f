"""How far the outputs of a copy are from those that the caller got, row by row.

Numbers are compared as numbers, everything else for equality. A row has changed where the largest
value of some output lies elsewhere (another class, another rank), or where an output of one value a
row is no number of the same sign and size as before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from chassis.tensors import decode_raw
from gateway.arms import Shadowed
from gateway.ingress.batch import Part

Matrix = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
# Of single values: within this part of each other they count as the same.
SAME = 0.01


def compare(shadowed: Shadowed, got: Sequence[Part], copy: Sequence[Part], rows: int) -> None:
    """Adds the comparison of two answers of `rows` rows to the figures."""
    changed = np.zeros(rows, dtype=bool)
    distance = np.zeros(rows)
    values = 0
    for ours, theirs in zip(got, copy, strict=True):
        if ours[1] != theirs[1]:
            changed[:] = True
            continue
        before, after = _matrix(ours, rows), _matrix(theirs, rows)
        if before is None or after is None:
            changed |= _differs(ours, theirs, rows)
            continue
        changed |= _moved(before, after)
        apart = np.abs(after - before)
        # NaN against NaN is no difference; against a number it is one without a size.
        apart = np.where(np.isfinite(apart), apart, 0.0)
        distance += apart.sum(axis=1)
        values += apart.shape[1]
        shadowed.max_difference = max(shadowed.max_difference, float(apart.max(initial=0.0)))
    shadowed.rows += rows
    shadowed.changed_rows += int(changed.sum())
    for apart_by in distance / values if values else ():
        shadowed.difference.add(float(apart_by))


def _matrix(part: Part, rows: int) -> Matrix | None:
    """(rows, values of a row); None for what is not numbers."""
    spec, shape, raw = part
    if spec.datatype == "BYTES":
        return None
    array = decode_raw(raw, spec.datatype, shape, name=spec.name)
    if spec.datatype == "BF16":
        # Its upper half is what the bits are.
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64, copy=False).reshape(rows, -1)


def _moved(before: Matrix, after: Matrix) -> Flags:
    lost: Flags = np.isnan(before).any(axis=1) != np.isnan(after).any(axis=1)
    elsewhere = np.zeros_like(lost)
    if before.shape[1] > 1:
        elsewhere = before.argmax(axis=1) != after.argmax(axis=1)
    elif before.shape[1]:
        elsewhere = ~np.isclose(after[:, 0], before[:, 0], rtol=SAME, atol=0.0, equal_nan=True)
    changed: Flags = lost | elsewhere
    return changed


def _differs(ours: Part, theirs: Part, rows: int) -> Flags:
    before, after = (
        decode_raw(raw, spec.datatype, shape, name=spec.name) for spec, shape, raw in (ours, theirs)
    )
    differs: Flags = (before != after).reshape(rows, -1).any(axis=1)
    return differs
