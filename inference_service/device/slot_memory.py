"""A slot's weights as one piece of the device's memory.

Decides where in it each tensor lies. One allocation a slot does not scatter the device's memory,
and what is asked for is what is there: a slot that fits once fits for ever.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

# What cudaMalloc gives and the widest loads want.
ALIGNED_BYTES = 256

Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


def laid_out(tensors: Layout, device: torch.device) -> dict[str, torch.Tensor]:
    """Contiguous tensors of the datatypes and shapes named, contents unknown, in one storage."""
    places: dict[str, int] = {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        places[name] = end
        # At least one unit: no two tensors have the same address.
        units = -(-_size(dtype, shape) // ALIGNED_BYTES)
        end += max(1, units) * ALIGNED_BYTES
    memory = torch.empty(end, dtype=torch.uint8, device=device)
    return {
        name: memory[places[name] : places[name] + _size(dtype, shape)].view(dtype).view(shape)
        for name, (dtype, shape) in tensors.items()
    }


def _size(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count * dtype.itemsize
