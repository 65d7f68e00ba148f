"""One tensor as a model's code sees it: a torch.Tensor, or for BYTES a numpy array of `bytes`.

torch has no strings: a BYTES input reaches a model as a numpy object array whose elements are
`bytes`, and a BYTES output is returned as one (elements may be `str`, which is sent as UTF-8).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from chassis.errors import InvalidArgument
from chassis.tensors import Signature, TensorSpec
from headrace.program import DATATYPES, TORCH_TYPES

# The size of a free dimension where nothing shows a better one.
FREE_SIZE = 8

BytesArray: TypeAlias = npt.NDArray[np.object_]
Value: TypeAlias = torch.Tensor | BytesArray


def datatype_of_value(value: Value) -> str:
    """The OIP datatype; torch's own name of a dtype that has none."""
    if isinstance(value, np.ndarray):
        return "BYTES"
    return DATATYPES.get(value.dtype, str(value.dtype))


def bytes_value(array: Any) -> BytesArray:
    """A copy of a string or object array, its elements as `bytes`.

    Raises InvalidArgument (BAD_BYTES) on elements other than bytes and str.
    """
    given = np.asarray(array, dtype=np.object_)
    elements = [
        element.encode() if isinstance(element, str) else element
        for element in given.reshape(-1).tolist()
    ]
    for element in elements:
        if not isinstance(element, bytes):
            raise InvalidArgument(
                "BAD_BYTES",
                f"a BYTES tensor holds a {type(element).__name__}; expected bytes or str",
            )
    value = np.empty(len(elements), dtype=np.object_)
    value[:] = elements
    return value.reshape(given.shape)


def value_of_array(array: Any, datatype: str) -> Value:
    """A numpy array's copy as a value. Raises InvalidArgument (BAD_BYTES)."""
    if datatype == "BYTES":
        return bytes_value(array)
    tensor = torch.from_numpy(np.array(array))
    # BF16 travels in numpy as the uint16 with the same bits.
    return tensor.view(torch.bfloat16) if datatype == "BF16" else tensor


def fits(value: Value, spec: TensorSpec, rows: int) -> bool:
    """Whether datatype and shape are `spec`'s, with `rows` rows unless 0."""
    shape = value.shape
    if len(shape) != len(spec.shape) or (rows and shape[0] != rows):
        return False
    if isinstance(value, torch.Tensor) and value.layout is not torch.strided:
        return False
    return datatype_of_value(value) == spec.datatype and all(
        expected in (-1, size) for size, expected in zip(shape, spec.shape, strict=True)
    )


def zero_state(spec: TensorSpec, rows: int) -> torch.Tensor:
    """A state as its sequence begins; `rows` 0 for a model without a batch dimension."""
    shape = (rows, *spec.shape[1:]) if rows else spec.shape
    return torch.zeros(shape, dtype=TORCH_TYPES[spec.datatype])


def moved(value: Value, device: torch.device) -> Value:
    """The value on `device`; BYTES stay where they are."""
    return value.to(device) if isinstance(value, torch.Tensor) else value


def copied(value: Value, device: torch.device) -> Value:
    """A copy on `device`, for a module that may write to its arguments, as one with states does."""
    if isinstance(value, torch.Tensor):
        return value.to(device, copy=True)
    return value.copy()


def close(one: Value, other: Value, absolute: float, relative: float) -> bool:
    """Whether numbers lie within absolute + relative * |other|, and BYTES are equal."""
    if one.shape != other.shape:
        return False
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.allclose(
            one.cpu().double(), other.cpu().double(), relative, absolute, equal_nan=True
        )
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def uses_bytes(signature: Signature) -> bool:
    """Whether any of its tensors is one that torch does not have."""
    return any(spec.datatype == "BYTES" for spec in (*signature.inputs, *signature.outputs))


def outputs_in_order(result: Any, signature: Signature) -> list[Value]:
    """What forward returned or generate yielded, in the signature's order: outputs, then states.

    Raises InvalidArgument (BAD_OUTPUT) on another count, a missing name, or something that is
    neither a tensor nor, for BYTES, an array of bytes.
    """
    specs = signature.results
    found = _listed(result, specs)
    names = [spec.name for spec in specs]
    if len(found) != len(names):
        raise InvalidArgument(
            "BAD_OUTPUT", f"the module returned {len(found)} outputs; expected tensors {names}"
        )
    return [_value(item, spec, names) for item, spec in zip(found, specs, strict=True)]


def _listed(result: Any, specs: Sequence[TensorSpec]) -> list[Any]:
    if isinstance(result, Mapping):
        return [result.get(spec.name) for spec in specs]
    if isinstance(result, torch.Tensor | np.ndarray | str | bytes):
        return [result]
    return list(result) if isinstance(result, Iterable) else [result]


def _value(item: Any, spec: TensorSpec, names: Sequence[str]) -> Value:
    if spec.datatype == "BYTES" and isinstance(item, np.ndarray) and item.dtype.kind in "OSU":
        try:
            return bytes_value(item)
        except InvalidArgument as error:
            raise InvalidArgument("BAD_OUTPUT", f"output {spec.name!r}: {error.message}") from error
    if not isinstance(item, torch.Tensor):
        expected = "an object array of bytes" if spec.datatype == "BYTES" else "a tensor"
        raise InvalidArgument(
            "BAD_OUTPUT",
            f"the module returned a {type(item).__name__} as output {spec.name!r}; expected "
            f"{expected} (expected tensors {names})",
        )
    return item
