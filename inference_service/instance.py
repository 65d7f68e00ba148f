"""A module with weights of its own: what a slot holds and a batch runs on.

Decides how a forward pass is called and what of its result is believed. An exported program checks
its inputs in hooks that cost more than a small model's forward pass (measured: 60-110 us against
30); an input's shapes pass through them once, later batches of those shapes go straight to the
graph. Names, datatypes and ranks were checked against the signature before.
Filling the weights is left to `fill`, when to run to the executor and the rehearsal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from chassis.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from chassis.tensors import Signature, TensorSpec
from headrace.program import DATATYPES, TORCH_TYPES, outputs_in_order
from model_store.records import Manifest, Program

# Beyond this many different input shapes, new ones are checked at every call.
MOST_SHAPES = 4096


class BadOutput(Exception):
    """Forward returned something other than the signature promises."""


class Instance:
    """One build of a program. Not thread-safe: one thread at a time runs or fills it."""

    def __init__(
        self,
        module: nn.Module,
        *,
        program: Program,
        signature: Signature,
        device: torch.device,
        exported: bool,
    ) -> None:
        self.program = program
        self.signature = signature
        self.device = device
        self.tensors: dict[str, torch.Tensor] = {}
        # What each tensor holds; a name is absent while its bytes are unknown.
        self.digests: dict[str, str] = {}
        self._module = module
        self._exported = exported
        self._direct = module.forward if exported else module
        self._dtypes = tuple(TORCH_TYPES[spec.datatype] for spec in signature.outputs)
        self._seen: set[tuple[torch.Size, ...]] = set()

    def fits(self, manifest: Manifest) -> bool:
        """Whether `manifest`'s weights belong into this build."""
        return self.program == manifest.program and self.signature == manifest.signature

    def table(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """(datatype, shape) of every parameter and persistent buffer, by name."""
        return {
            name: (DATATYPES.get(value.dtype, str(value.dtype)), tuple(value.shape))
            for name, value in self._module.state_dict().items()
        }

    def materialize(self) -> None:
        """Gives every tensor storage on the device, with contents still to be filled."""
        if self.tensors:
            return
        if self._exported:
            storage = {
                name: torch.empty(value.shape, dtype=value.dtype, device=self.device)
                for name, value in self._module.state_dict().items()
            }
            self._module.load_state_dict(storage, assign=True)
        self._module.to(self.device).requires_grad_(False)
        self.tensors = {name: value.detach() for name, value in self._module.state_dict().items()}

    def parameters(self) -> set[str]:
        """Names of the tensors that are parameters; the others are buffers."""
        return {name for name, _ in self._module.named_parameters(remove_duplicate=False)}

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The outputs in signature order, for inputs in signature order, on the device.

        To be called in inference mode. Raises InvalidArgument (UNSUPPORTED_SHAPE,
        UNSUPPORTED_VALUE), ResourceExhausted (OUT_OF_MEMORY), BadOutput, and what the module does.
        """
        shapes = tuple(tensor.shape for tensor in inputs)
        try:
            if shapes in self._seen:
                result = self._direct(*inputs)
            else:
                result = self._first_of(shapes, inputs)
        except torch.OutOfMemoryError as error:
            raise ResourceExhausted(
                "OUT_OF_MEMORY", "the device has too little memory left for this batch"
            ) from error
        except IndexError as error:
            # An index looked up in a table: it came with the input.
            raise InvalidArgument(
                "UNSUPPORTED_VALUE", "an input holds an index outside the model's tables"
            ) from error
        return self._checked(result, inputs[0].shape[0] if self.signature.max_batch_size else 0)

    def _first_of(self, shapes: tuple[torch.Size, ...], inputs: Sequence[torch.Tensor]) -> Any:
        try:
            result = self._module(*inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            given = ", ".join(str(list(shape)) for shape in shapes)
            raise InvalidArgument(
                "UNSUPPORTED_SHAPE", f"the model cannot compute inputs of shapes {given}"
            ) from error
        if len(self._seen) < MOST_SHAPES:
            self._seen.add(shapes)
        return result

    def _checked(self, result: Any, rows: int) -> list[torch.Tensor]:
        try:
            outputs = outputs_in_order(result, self.signature)
        except InvalidArgument as error:
            raise BadOutput(error.message) from error
        for spec, dtype, tensor in zip(self.signature.outputs, self._dtypes, outputs, strict=True):
            if tensor.dtype is not dtype or not _fits(tensor.shape, spec, rows):
                raise BadOutput(
                    f"output {spec.name!r} is {tensor.dtype} of shape {list(tensor.shape)} for "
                    f"{rows} rows; the signature promises {spec.datatype} of {list(spec.shape)}"
                )
        return outputs

    def __repr__(self) -> str:
        return f"Instance({self.program.kind}, {len(self.tensors)} tensors on {self.device})"


def check_supported(signature: Signature) -> None:
    """Refuses a signature with tensors that torch does not have.

    Raises FailedPrecondition (UNSUPPORTED_DATATYPE).
    """
    for spec in (*signature.inputs, *signature.outputs):
        if spec.datatype not in TORCH_TYPES:
            raise FailedPrecondition(
                "UNSUPPORTED_DATATYPE",
                f"tensor {spec.name!r} is {spec.datatype}, which torch has no type for; expected "
                f"one of {', '.join(TORCH_TYPES)}",
            )


def _fits(shape: Sequence[int], spec: TensorSpec, rows: int) -> bool:
    if len(shape) != len(spec.shape) or (rows and shape[0] != rows):
        return False
    return all(expected in (-1, size) for size, expected in zip(shape, spec.shape, strict=True))
