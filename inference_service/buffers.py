"""Raw bytes as tensors and tensors as raw bytes, without a copy on the way in.

Raw bytes are little-endian and row-major, as blobs and requests carry them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from chassis.tensors import NUMPY_TYPES, decode_raw, encode_raw
from headrace.values import Value

with warnings.catch_warnings():
    # torch warns once in a process that memory of a `bytes` object is read-only. Nothing here
    # writes to it; let the one warning pass now, where it is understood.
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"\x00", dtype=np.uint8))


def tensor_of(
    raw: bytes | bytearray, datatype: str, shape: Sequence[int], device: torch.device
) -> torch.Tensor:
    """The tensor in `raw`: on the CPU a view of it, elsewhere a copy through pinned memory.

    `raw` must hold exactly the bytes of `shape`.
    """
    if len(raw) < 2:
        # Python shares its bytes objects of length 0 and 1; a module that writes to its input
        # in place must not reach them.
        raw = bytearray(raw)
    array = np.frombuffer(raw, dtype=NUMPY_TYPES[datatype]).reshape(tuple(shape))
    tensor = torch.from_numpy(array)
    if datatype == "BF16":
        tensor = tensor.view(torch.bfloat16)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def value_of(
    raw: bytes | bytearray, datatype: str, shape: Sequence[int], device: torch.device
) -> Value:
    """The tensor in `raw`; of BYTES, an array of its elements."""
    if datatype == "BYTES":
        return decode_raw(bytes(raw), datatype, shape, name=datatype).astype(np.object_, copy=False)
    return tensor_of(raw, datatype, shape, device)


def raw_of(value: Value) -> bytes:
    """A copy of the value's wire bytes. Waits for the device to finish computing it."""
    if not isinstance(value, torch.Tensor):
        return encode_raw(value, "BYTES")
    return _raw_of_tensor(value)


def _raw_of_tensor(tensor: torch.Tensor) -> bytes:
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.detach().cpu().numpy().tobytes()


def view_of(tensor: torch.Tensor) -> memoryview:
    """The tensor's bytes; a view of its memory where that is contiguous and on the CPU."""
    flat = tensor.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data


def _copied(source: torch.Tensor, target: torch.Tensor) -> None:
    target.copy_(source)


@contextmanager
def changing(
    tensor: torch.Tensor, copy: Callable[[torch.Tensor, torch.Tensor], None] = _copied
) -> Iterator[memoryview]:
    """The tensor's bytes, to be changed: its own where those are contiguous and on the CPU, else a
    copy that `copy` brings back."""
    near = tensor.detach().cpu().contiguous()
    yield view_of(near)
    if near.data_ptr() != tensor.data_ptr():
        copy(near, tensor)
