"""The architecture as a blob: export without weights, load without user code.

`torch.export` records the module's graph; every parameter and buffer of its state dict is replaced
by a meta tensor before it is saved, so that the blob holds the architecture alone and stays the
same from version to version. Non-persistent buffers and constants are part of the program.
The archive is JSON and raw tensors; it is never unpickled into objects of our own.
"""

from __future__ import annotations

import inspect
import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import nn

from chassis.errors import InvalidArgument
from chassis.tensors import Signature

TORCH_TYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "FP32": torch.float32,
    "FP64": torch.float64,
    "BF16": torch.bfloat16,
}
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# What weights are published or computed in where that is asked for, by the name users write.
SERVING_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DATATYPES: dict[torch.dtype, str] = {dtype: name for name, dtype in TORCH_TYPES.items()}

# torch's reader of programs keeps its state in a global: a second thread's load would be refused.
_LOADING = threading.Lock()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts `module` in eval mode and restores each submodule's own mode after."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers by name, detached; a tied tensor stands under each name."""
    return {name: value.detach() for name, value in module.state_dict().items()}


def export_program(
    module: nn.Module, signature: Signature, example: Sequence[torch.Tensor]
) -> bytes:
    """Exports `module` in eval mode with a dynamic batch dimension and dynamic -1 dimensions.

    `example` holds one tensor an input and then one a state, in signature order. Its batch is made
    two rows: one would be taken for a constant, and a size that varies would vary the blob. The
    module is left as it was.
    Raises InvalidArgument (NOT_EXPORTABLE) with torch's own first line.
    """
    arguments = tuple(_two_rows(tensor, signature) for tensor in example)
    with evaluating(module), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(
                module, arguments, dynamic_shapes=_dynamic_shapes(module, signature)
            )
        except Exception as error:
            raise _not_exportable(error) from error
        for name, value in program.state_dict.items():
            program.state_dict[name] = _without_storage(value)
        program._example_inputs = None
        blob = io.BytesIO()
        torch.export.save(program, blob)
    return blob.getvalue()


def retraced(
    module: nn.Module, signature: Signature, example: Sequence[torch.Tensor]
) -> torch.export.ExportedProgram:
    """An exported module traced once more, as it is now: on its device, in its datatypes.

    `example` as for `export_program`. Raises InvalidArgument (NOT_EXPORTABLE).
    """
    arguments = tuple(_two_rows(tensor, signature) for tensor in example)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.export.export(
                module, arguments, dynamic_shapes=_dynamic_shapes(module, signature)
            )
        except Exception as error:
            raise _not_exportable(error) from error


def preload() -> None:
    """Imports what the first `load_program` needs: 1.7 s of CPU time on torch 2.13.

    A replica that calls it while it waits for its first version serves that version sooner.
    """
    import_module("torch.export.pt2_archive")


def load_program(content: bytes) -> nn.Module:
    """The exported module on the meta device; fill it with `load_state_dict(..., assign=True)`.

    Raises InvalidArgument (BAD_PROGRAM).
    """
    with _LOADING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.export.load(io.BytesIO(content)).module()
        except Exception as error:
            raise InvalidArgument(
                "BAD_PROGRAM", f"the program blob does not load: {error}"
            ) from error


def _not_exportable(error: Exception) -> InvalidArgument:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    return InvalidArgument("NOT_EXPORTABLE", f"torch.export refused the module: {first_line}")


def _two_rows(tensor: torch.Tensor, signature: Signature) -> torch.Tensor:
    if signature.max_batch_size <= 1:
        return tensor
    return torch.cat([tensor, tensor])[:2]


def _dynamic_shapes(module: nn.Module, signature: Signature) -> tuple[Any, ...]:
    # AUTO lets the exporter find that two inputs' dimensions are the same one.
    shapes = tuple(
        {
            index: torch.export.Dim.AUTO
            for index, size in enumerate(spec.shape)
            if size == -1 and not (index == 0 and signature.max_batch_size == 1)
        }
        for spec in signature.arguments
    )
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    # The exporter takes forward(*inputs) as one argument.
    return (shapes,) if kinds[:1] == [inspect.Parameter.VAR_POSITIONAL] else shapes


def _without_storage(value: torch.Tensor) -> torch.Tensor:
    empty = torch.empty(value.shape, dtype=value.dtype, device="meta")
    return nn.Parameter(empty, requires_grad=False) if isinstance(value, nn.Parameter) else empty
