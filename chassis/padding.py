"""Tensors filled up to the sizes that a signature's `padding` names, and answers cut back.

Requests whose sizes fall into one bucket have one shape then, and can share a batch. The size of a
padded axis is that of the padding's inputs; if it cuts outputs too, all its inputs must have one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from chassis.errors import InvalidArgument
from chassis.tensors import ELEMENT_BYTES, NUMPY_TYPES, Padding, Signature, TensorSpec, fill_element

Shape = tuple[int, ...]
# raw bytes and their shape
Part = tuple[bytes, Shape]


@dataclass(frozen=True, slots=True)
class Cut:
    """An output that has `padded` at `axis` is cut to `size` there."""

    axis: int
    padded: int
    size: int


# By position of the output in the signature.
Cuts = dict[int, tuple[Cut, ...]]


class Padder:
    """The padding of one signature, by positions."""

    def __init__(self, signature: Signature) -> None:
        self._specs = signature.inputs
        inputs = {spec.name: at for at, spec in enumerate(signature.inputs)}
        outputs = {spec.name: at for at, spec in enumerate(signature.outputs)}
        self._paddings = [
            (
                padding,
                [inputs[name] for name, _ in padding.inputs],
                [outputs[name] for name in padding.outputs],
            )
            for padding in signature.padding
        ]
        self._fills = {
            inputs[name]: fill_element(fill, signature.inputs[inputs[name]].datatype)
            for padding in signature.padding
            for name, fill in padding.inputs
        }

    def padded(self, shapes: Sequence[Shape]) -> list[Shape]:
        """The shapes that inputs of `shapes` are filled up to.

        Raises InvalidArgument (SIZES_DIFFER).
        """
        found = list(shapes)
        for padding, inputs, outputs in self._paddings:
            if outputs:
                self._check_one_size(padding, [shapes[at][padding.axis] for at in inputs], inputs)
            for at in inputs:
                shape = found[at]
                size = bucket(shape[padding.axis], padding.buckets)
                found[at] = (*shape[: padding.axis], size, *shape[padding.axis + 1 :])
        return found

    def size_bytes(self, padded: Sequence[Shape], raw: Sequence[bytes]) -> int:
        """Bytes of all inputs once they are filled up."""
        return sum(
            math.prod(shape) * ELEMENT_BYTES[spec.datatype]
            if spec.datatype in ELEMENT_BYTES
            else len(own)
            for spec, shape, own in zip(self._specs, padded, raw, strict=True)
        )

    def joined(self, at: int, parts: Sequence[Part], rows: Shape, shape: Shape) -> bytes:
        """`parts` of one input below each other, each filled up to `shape`.

        `rows` holds how many each part has; empty where nothing batches, and then there is one
        part.
        """
        if all(own[bool(rows) :] == shape[bool(rows) :] for _, own in parts):
            return b"".join([raw for raw, _ in parts]) if len(parts) > 1 else parts[0][0]
        dtype = NUMPY_TYPES[self._specs[at].datatype]
        whole = np.full(shape, self._fills[at], dtype)
        start = 0
        for (raw, own), count in zip(parts, rows or (0,), strict=True):
            target = whole[start : start + count] if rows else whole
            target[tuple(map(slice, own))] = np.frombuffer(raw, dtype).reshape(own)
            start += count
        return whole.tobytes()

    def cuts(self, shapes: Sequence[Shape], padded: Sequence[Shape]) -> Cuts:
        """What is to be cut off the outputs of a request that was filled up."""
        found: dict[int, tuple[Cut, ...]] = {}
        for padding, inputs, outputs in self._paddings:
            size, full = shapes[inputs[0]][padding.axis], padded[inputs[0]][padding.axis]
            if size != full:
                for at in outputs:
                    found[at] = (*found.get(at, ()), Cut(padding.axis, full, size))
        return found

    def _check_one_size(self, padding: Padding, sizes: list[int], inputs: list[int]) -> None:
        if len(set(sizes)) > 1:
            names = ", ".join(repr(self._specs[at].name) for at in inputs)
            raise InvalidArgument(
                "SIZES_DIFFER",
                f"inputs {names} have sizes {sizes} at axis {padding.axis}; expected one size",
                field="inputs",
            )


@lru_cache(maxsize=256)
def padder_of(signature: Signature) -> Padder | None:
    """The padder of a signature, None if it pads nothing."""
    return Padder(signature) if signature.padding else None


def bucket(size: int, buckets: Sequence[int]) -> int:
    """The smallest of the ascending `buckets` that holds `size`; `size` itself if none does."""
    at = bisect_left(buckets, size)
    return buckets[at] if at < len(buckets) else size


def cut(spec: TensorSpec, shape: Shape, raw: bytes, cuts: Sequence[Cut]) -> tuple[Shape, bytes]:
    """An output without what its padding added; one that has another size there stays as it is."""
    sizes = list(shape)
    for each in cuts:
        if sizes[each.axis] == each.padded:
            sizes[each.axis] = each.size
    kept = tuple(sizes)
    if kept == shape:
        return shape, raw
    array = np.frombuffer(raw, NUMPY_TYPES[spec.datatype]).reshape(shape)
    return kept, array[tuple(map(slice, kept))].tobytes()
