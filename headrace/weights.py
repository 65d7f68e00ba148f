"""A module's tensors as the store takes them: a table of names, datatypes and shapes, and bytes.

Decides what may be published: tensors of OIP datatypes whose every number is finite. A snapshot is
a copy, so that training may go on the moment it is taken; tied tensors share one copy.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from chassis.errors import InvalidArgument
from headrace.program import DATATYPES
from model_store.digests import digest
from model_store.records import TensorEntry

State = dict[str, torch.Tensor]
# Name, datatype and shape of every tensor, ordered by name.
Table = tuple[tuple[str, str, tuple[int, ...]], ...]


def unwrapped(module: nn.Module) -> nn.Module:
    """The user's module inside DistributedDataParallel and torch.compile."""
    while True:
        if isinstance(module, nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(inner := module.__dict__.get("_modules", {}).get("_orig_mod"), nn.Module):
            module = inner
        else:
            return module


def snapshot(module: nn.Module) -> State:
    """Contiguous copies on the CPU of parameters and persistent buffers, by name.

    Raises InvalidArgument (BAD_STATE, NON_FINITE) naming the tensor.
    """
    copies: dict[tuple[object, ...], torch.Tensor] = {}
    state = {}
    for name, value in module.state_dict().items():
        tensor = _checked(name, value)
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if key not in copies:
            copies[key] = tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
            _refuse_non_finite(name, copies[key])
        state[name] = copies[key]
    return state


def _checked(name: str, value: object) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        raise InvalidArgument(
            "BAD_STATE", f"state entry {name!r} is not a dense tensor; only those are published"
        )
    if value.dtype not in DATATYPES:
        raise InvalidArgument(
            "BAD_STATE", f"tensor {name!r} has dtype {value.dtype}, which has no OIP datatype"
        )
    return value.detach()


def _refuse_non_finite(name: str, tensor: torch.Tensor) -> None:
    if not tensor.is_floating_point() or not tensor.numel():
        return
    # NaN wins both; unlike isfinite() this allocates nothing and is ten times faster.
    least, most = torch.aminmax(tensor)
    if not bool(least.isfinite() & most.isfinite()):
        raise InvalidArgument(
            "NON_FINITE", f"tensor {name!r} holds NaN or infinity; such weights are not published"
        )


def table_of(state: Mapping[str, torch.Tensor]) -> Table:
    """The table of a state."""
    return tuple(
        (name, DATATYPES[tensor.dtype], tuple(tensor.shape))
        for name, tensor in sorted(state.items())
    )


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """Little-endian, row-major bytes of a contiguous CPU tensor, not copied."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def entries(state: State) -> tuple[tuple[TensorEntry, ...], dict[str, memoryview]]:
    """The manifest's entries of a snapshot, and the bytes behind each digest."""
    named: list[TensorEntry] = []
    blobs: dict[str, memoryview] = {}
    hashed: dict[int, str] = {}
    for name, datatype, shape in table_of(state):
        tensor = state[name]
        content = raw_bytes(tensor)
        if id(tensor) not in hashed:
            hashed[id(tensor)] = digest(content)
        found = hashed[id(tensor)]
        blobs[found] = content
        named.append(TensorEntry(name, datatype, shape, found, len(content)))
    return tuple(named), blobs
