"""The arrays that requests carry: random ones of the right datatype and shape, or given ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from chassis.errors import InvalidArgument
from chassis.tensors import NUMPY_TYPES, TensorSpec, datatype_of
from headrace.load.target import Target

Array = npt.NDArray[Any]

WORD_BYTES = 8


class Contents:
    """Inputs by name for a number of rows, seeded.

    `given` holds arrays by input name, whose rows are taken in turn; the other inputs are random.
    `shapes` gives sizes, without the batch, of inputs whose sizes are open.
    Raises InvalidArgument (UNKNOWN_INPUT, OPEN_SHAPE, BAD_INPUT, BAD_ROWS).
    """

    def __init__(
        self,
        target: Target,
        *,
        rows: tuple[int, int],
        given: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        seed: int,
    ) -> None:
        _check_rows(target, rows)
        _check_names(target, given, shapes)
        self._batches = target.batches
        self._draw = np.random.default_rng([seed, 2])
        self._given = {name: _fitted(target, name, array) for name, array in given.items()}
        self._random = {
            spec.name: (spec.datatype, _sizes(target, spec, shapes.get(spec.name)))
            for spec in target.inputs
            if spec.name not in given
        }
        if not self._given and not self._random:
            raise InvalidArgument(
                "OPEN_SHAPE", "the server names no inputs of the model; give them with --input"
            )

    def arrays(self, rows: int, number: int) -> dict[str, tuple[str, Array]]:
        """Datatype and array of each input of request `number`, by name."""
        leading = (rows,) if self._batches else ()
        arrays = {
            name: (kind, self._rows(array, rows, number))
            for name, (kind, array) in self._given.items()
        }
        for name, (datatype, sizes) in self._random.items():
            arrays[name] = datatype, _random(self._draw, datatype, leading + sizes)
        return arrays

    def _rows(self, array: Array, rows: int, number: int) -> Array:
        if not self._batches:
            return array
        picks = (number * rows + np.arange(rows)) % len(array)
        taken: Array = array[picks]
        return taken


def _check_rows(target: Target, rows: tuple[int, int]) -> None:
    if not target.batches and rows != (1, 1):
        raise InvalidArgument("BAD_ROWS", "the model has no batch dimension: leave the rows out")
    if target.max_rows and rows[1] > target.max_rows:
        raise InvalidArgument(
            "BAD_ROWS", f"a request of {rows[1]} rows: the model takes up to {target.max_rows}"
        )


def _check_names(
    target: Target, given: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    known = [spec.name for spec in target.inputs]
    for name in (*given, *shapes):
        # A server that names none leaves it to us.
        if known and name not in known:
            raise InvalidArgument(
                "UNKNOWN_INPUT", f"input {name!r} is unknown; expected {', '.join(known)}"
            )


def _fitted(target: Target, name: str, array: Any) -> tuple[str, Array]:
    """Datatype and array as the server names it, with the batch in front."""
    found = np.asarray(array)
    spec = next((spec for spec in target.inputs if spec.name == name), None)
    if spec is None:
        return datatype_of(found), found
    try:
        found = found.astype(NUMPY_TYPES[spec.datatype])
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            "BAD_INPUT", f"input {name!r}: not {spec.datatype} ({error})"
        ) from None
    if target.batches and found.ndim == len(spec.shape) - 1:
        found = found[None]
    if found.ndim != len(spec.shape) or (target.batches and not len(found)):
        raise InvalidArgument(
            "BAD_INPUT",
            f"input {name!r} has shape {list(found.shape)}; the model takes {list(spec.shape)}",
        )
    return spec.datatype, found


def _sizes(target: Target, spec: TensorSpec, told: tuple[int, ...] | None) -> tuple[int, ...]:
    """The sizes behind the batch."""
    sizes = spec.shape[1:] if target.batches else spec.shape
    if told is not None:
        fits = len(told) == len(sizes) and all(
            size >= 1 and own in (-1, size) for own, size in zip(sizes, told, strict=True)
        )
        if not fits:
            raise InvalidArgument(
                "OPEN_SHAPE",
                f"input {spec.name!r}: shape {list(told)} does not fit {list(sizes)}, the sizes "
                "without the batch",
            )
        return told
    if -1 in sizes:
        example = ",".join(str(size) if size > 0 else "8" for size in sizes)
        raise InvalidArgument(
            "OPEN_SHAPE",
            f"input {spec.name!r} has open sizes {list(sizes)}: name them, such as "
            f"--shape {spec.name}={example}",
        )
    return sizes


def _random(draw: np.random.Generator, datatype: str, shape: tuple[int, ...]) -> Array:
    """Normal floats, integers 0 and 1 (valid indices of any table), words."""
    if datatype == "BYTES":
        words = draw.integers(97, 123, (*shape, WORD_BYTES)).astype(np.uint8)
        found: Array = words.view(f"S{WORD_BYTES}")[..., 0].astype(np.object_)
        return found
    if datatype == "BF16":
        # The upper half of an FP32's bits.
        return (draw.standard_normal(shape, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    dtype = NUMPY_TYPES[datatype]
    if dtype.kind == "f":
        return draw.standard_normal(shape).astype(dtype)
    return draw.integers(0, 2, shape).astype(dtype)
