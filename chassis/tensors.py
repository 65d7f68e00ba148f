"""Tensor specs, signatures, and OIP datatypes as numpy and as raw bytes; no torch, no protobuf."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chassis.errors import InvalidArgument

# BF16 has no numpy type: its elements are carried as the uint16 with the same bits.
NUMPY_TYPES: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"),
    "BYTES": np.dtype(np.object_),
}

# Bytes of one element on the wire; BYTES elements have none: each is a length and its bytes.
ELEMENT_BYTES: dict[str, int] = {
    name: dtype.itemsize for name, dtype in NUMPY_TYPES.items() if name != "BYTES"
}

_DATATYPES: dict[np.dtype[np.generic], str] = {
    dtype: name for name, dtype in NUMPY_TYPES.items() if name not in ("BF16", "BYTES")
}

MAX_ELEMENTS = 2**40

# Before each element of a BYTES tensor.
_LENGTH = struct.Struct("<I")


def datatype_of(array: npt.NDArray[np.generic]) -> str:
    """The OIP datatype of a numpy array; object, string and bytes arrays are BYTES.

    Raises InvalidArgument (BAD_DATATYPE).
    """
    if array.dtype.kind in "OSU":
        return "BYTES"
    found = _DATATYPES.get(array.dtype.newbyteorder("<"))
    if found is None:
        raise InvalidArgument(
            "BAD_DATATYPE",
            f"numpy dtype {array.dtype} has no OIP datatype; expected one of "
            + ", ".join(sorted(str(dtype) for dtype in _DATATYPES)),
        )
    return found


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named tensor of a model's interface.

    `datatype` is the OIP name ("FP32", "INT64", "BYTES", ...); `shape` holds positive sizes or -1
    for any; where the model batches, the first dimension is the batch and must be -1.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        if not self.name:
            raise InvalidArgument("BAD_SPEC", "a TensorSpec needs a name")
        if self.datatype not in NUMPY_TYPES:
            raise InvalidArgument(
                "BAD_SPEC",
                f"tensor {self.name!r}: datatype {self.datatype!r} is unknown; expected one of "
                + ", ".join(NUMPY_TYPES),
            )
        if any(size < -1 or size == 0 for size in self.shape):
            raise InvalidArgument(
                "BAD_SPEC",
                f"tensor {self.name!r}: shape {list(self.shape)} holds a size that is neither "
                "positive nor -1",
            )


@dataclass(frozen=True, slots=True)
class Padding:
    """Sizes to which one dimension is filled up, so that requests of different sizes batch.

    `axis` counts from 0, which is the batch where the model batches. Each of `inputs`, (name, fill
    value), is filled up to the smallest of `buckets` (sizes, ascending) that holds it; what is
    larger than the last stays as it is. The same axis of each of `outputs` is cut back.
    """

    axis: int
    buckets: tuple[int, ...]
    inputs: tuple[tuple[str, float], ...]
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "buckets", tuple(int(size) for size in self.buckets))
        pairs = self.inputs.items() if isinstance(self.inputs, Mapping) else self.inputs
        object.__setattr__(self, "inputs", tuple((str(name), float(fill)) for name, fill in pairs))
        object.__setattr__(self, "outputs", tuple(self.outputs))
        if (
            not self.buckets
            or self.buckets[0] < 1
            or list(self.buckets) != sorted(set(self.buckets))
        ):
            raise InvalidArgument(
                "BAD_SPEC",
                f"padding: buckets {list(self.buckets)[:16]} must be positive and ascending",
            )
        if not self.inputs:
            raise InvalidArgument("BAD_SPEC", "padding: name at least one input")


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives, in the order of its forward's arguments and results.

    `max_batch_size` is in rows; 0 means that tensors have no batch dimension. A `decoupled` model
    answers one request with any number of responses. `states` are tensors carried from a request
    to the next of its sequence: forward takes them after the inputs and returns them after the
    outputs; they never travel. `labels` name the classes of an output, by its name.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    decoupled: bool = False
    states: tuple[TensorSpec, ...] = ()
    padding: tuple[Padding, ...] = ()
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "outputs", tuple(self.outputs))
        object.__setattr__(self, "states", tuple(self.states))
        object.__setattr__(self, "padding", tuple(self.padding))
        pairs = self.labels.items() if isinstance(self.labels, Mapping) else self.labels
        labels = tuple((str(name), tuple(map(str, names))) for name, names in pairs)
        object.__setattr__(self, "labels", labels)
        if self.max_batch_size < 0:
            raise InvalidArgument("BAD_SPEC", "max_batch_size must be 0 or more")
        self._check_side("input", self.inputs)
        self._check_side("output", self.outputs)
        if self.states:
            self._check_side("state", self.states)
            self._check_states()
        for padding in self.padding:
            self._check_padding(padding)
        self._check_fills()
        self._check_labels()

    @property
    def arguments(self) -> tuple[TensorSpec, ...]:
        """What forward takes: inputs, then states."""
        return self.inputs + self.states

    @property
    def results(self) -> tuple[TensorSpec, ...]:
        """What forward returns: outputs, then new states."""
        return self.outputs + self.states

    def _check_states(self) -> None:
        leading = 1 if self.max_batch_size else 0
        taken = {spec.name for spec in (*self.inputs, *self.outputs)}
        for spec in self.states:
            if self.decoupled:
                raise InvalidArgument("BAD_SPEC", "a decoupled model has no states")
            if spec.name in taken:
                raise InvalidArgument(
                    "BAD_SPEC", f"state {spec.name!r} has the name of an input or output"
                )
            if -1 in spec.shape[leading:] or spec.datatype == "BYTES":
                raise InvalidArgument(
                    "BAD_SPEC",
                    f"state {spec.name!r}: expected fixed sizes beside the batch, and numbers",
                )

    def _check_padding(self, padding: Padding) -> None:
        least = 1 if self.max_batch_size else 0
        sides = (
            ("input", {spec.name: spec for spec in self.inputs}, [n for n, _ in padding.inputs]),
            ("output", {spec.name: spec for spec in self.outputs}, padding.outputs),
        )
        for side, specs, names in sides:
            for name in names:
                spec = specs.get(name)
                if spec is None or not least <= padding.axis < len(spec.shape):
                    raise InvalidArgument(
                        "BAD_SPEC",
                        f"padding of axis {padding.axis}: {side} {name!r} has no such dimension "
                        "beside the batch",
                    )
                if spec.shape[padding.axis] != -1 or spec.datatype == "BYTES":
                    raise InvalidArgument(
                        "BAD_SPEC",
                        f"padding: {side} {name!r} must be of numbers and have -1 at axis "
                        f"{padding.axis}",
                    )

    def _check_fills(self) -> None:
        datatypes = {spec.name: spec.datatype for spec in self.inputs}
        seen: dict[str, tuple[set[int], float]] = {}
        for padding in self.padding:
            for name, fill in padding.inputs:
                fill_element(fill, datatypes[name])
                axes, known = seen.setdefault(name, (set(), fill))
                if padding.axis in axes or repr(known) != repr(fill):
                    raise InvalidArgument(
                        "BAD_SPEC",
                        f"padding: input {name!r} is filled up twice at axis {padding.axis}, or "
                        "with different values",
                    )
                axes.add(padding.axis)

    def _check_labels(self) -> None:
        names = {spec.name for spec in self.outputs}
        for name, _ in self.labels:
            if name not in names:
                raise InvalidArgument("BAD_SPEC", f"labels: output {name!r} is unknown")

    def _check_side(self, side: str, specs: tuple[TensorSpec, ...]) -> None:
        if not specs:
            raise InvalidArgument("BAD_SPEC", f"a signature needs at least one {side}")
        names = [spec.name for spec in specs]
        if len(set(names)) != len(names):
            raise InvalidArgument("BAD_SPEC", f"{side} names must differ, got {names}")
        for spec in specs:
            if self.max_batch_size and (not spec.shape or spec.shape[0] != -1):
                raise InvalidArgument(
                    "BAD_SPEC",
                    f"{side} {spec.name!r}: shape {list(spec.shape)} must start with -1 (the "
                    "batch) because max_batch_size is not 0",
                )


def element_count(shape: Sequence[int]) -> int:
    """Product of the sizes. Raises InvalidArgument (BAD_SHAPE) on a negative or a huge one."""
    if min(shape, default=0) < 0:
        raise InvalidArgument("BAD_SHAPE", f"shape {list(shape)[:8]} holds a negative size")
    count = math.prod(shape)
    if count > MAX_ELEMENTS:
        raise InvalidArgument(
            "BAD_SHAPE", f"shape {list(shape)[:8]} holds more than {MAX_ELEMENTS} elements"
        )
    return count


def fill_element(fill: float, datatype: str) -> int | float | bool:
    """The numpy value of an element that is `fill`; of BF16 its bits.

    Raises InvalidArgument (BAD_SPEC) on a number that the datatype does not have, and on BYTES.
    """
    kind = NUMPY_TYPES[datatype].kind
    if datatype == "BF16":
        bits = int(np.array(fill, "<f4").view("<u4"))
        # To the nearest, ties to even; NaN keeps its upper half.
        return (bits if math.isnan(fill) else bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    if kind == "f":
        with np.errstate(over="ignore"):
            element = float(np.array(fill, NUMPY_TYPES[datatype]))
        if math.isinf(element) == math.isinf(fill):
            return fill
    elif kind != "O" and math.isfinite(fill) and fill == int(fill):
        low, high = (0, 1) if kind == "b" else _range(datatype)
        if low <= fill <= high:
            return int(fill)
    raise InvalidArgument("BAD_SPEC", f"padding: {fill} is no value of {datatype}")


def _range(datatype: str) -> tuple[int, int]:
    ends = np.iinfo(str(NUMPY_TYPES[datatype]))
    return int(ends.min), int(ends.max)


def encode_raw(array: npt.NDArray[np.generic], datatype: str) -> bytes:
    """Little-endian, row-major bytes; BYTES elements (bytes or str) as uint32 length + bytes."""
    if datatype == "BYTES":
        parts = []
        for element in array.reshape(-1).tolist():
            content = element.encode() if isinstance(element, str) else bytes(element)
            parts.append(len(content).to_bytes(4, "little"))
            parts.append(content)
        return b"".join(parts)
    return np.ascontiguousarray(array, dtype=NUMPY_TYPES[datatype]).tobytes()


def decode_raw(
    raw: bytes | memoryview, datatype: str, shape: Sequence[int], *, name: str
) -> npt.NDArray[np.generic]:
    """The array of `shape` in `raw`, without a copy where the datatype has fixed-size elements.

    Raises InvalidArgument (BAD_BYTE_COUNT, BAD_SHAPE); `name` is the tensor's, for the sentence.
    """
    count = element_count(shape)
    if datatype == "BYTES":
        elements = split_bytes_elements(raw, name=name)
        if len(elements) != count:
            raise InvalidArgument(
                "BAD_BYTE_COUNT",
                f"tensor {name!r} holds {len(elements)} BYTES elements; shape {list(shape)} needs "
                f"{count}",
            )
        array = np.empty(count, dtype=np.object_)
        array[:] = elements
        return array.reshape(tuple(shape))
    expected = count * ELEMENT_BYTES[datatype]
    if len(raw) != expected:
        raise InvalidArgument(
            "BAD_BYTE_COUNT",
            f"tensor {name!r} holds {len(raw)} bytes; {datatype} of shape {list(shape)} needs "
            f"{expected}",
        )
    return np.frombuffer(raw, dtype=NUMPY_TYPES[datatype]).reshape(tuple(shape))


def split_bytes_elements(raw: bytes | memoryview, *, name: str, field: str = "") -> list[bytes]:
    """The elements of a raw BYTES tensor; `field` is the path of its bytes in the message.

    Raises InvalidArgument (BAD_BYTE_COUNT).
    """
    ends = _element_ends(raw, name, field)
    view = memoryview(raw)
    starts = [0, *ends[:-1]] if ends else []
    return [bytes(view[at + 4 : end]) for at, end in zip(starts, ends, strict=True)]


def count_bytes_elements(raw: bytes | memoryview, *, name: str, field: str = "") -> int:
    """As many elements as `split_bytes_elements` gives. Raises InvalidArgument (BAD_BYTE_COUNT)."""
    return len(_element_ends(raw, name, field))


def _element_ends(raw: bytes | memoryview, name: str, field: str) -> list[int]:
    ends: list[int] = []
    at, size = 0, len(raw)
    while at < size:
        end = at + 4 + _LENGTH.unpack_from(raw, at)[0] if at + 4 <= size else size + 1
        if end > size:
            raise InvalidArgument(
                "BAD_BYTE_COUNT",
                f"tensor {name!r}: a BYTES element's length at byte {at} runs past the end of its "
                f"{size} bytes",
                field=field,
            )
        ends.append(end)
        at = end
    return ends
