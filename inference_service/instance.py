"""A module with weights of its own: what a slot holds and a batch runs on.

Decides how a forward pass is called and what of its result is believed. An exported program checks
its inputs in hooks that cost more than a small model's forward pass (measured: 60-110 us against
30); an input's shapes pass through them once, later batches of those shapes go straight to the
graph. Names, datatypes and ranks were checked against the signature before.
A decoupled model's `generate` is called with the module and the inputs by name; each step of it is
one response. Filling the weights is left to `fill`, when to run to the executor and the rehearsal,
what an exception means to `faults`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from chassis.errors import FailedPrecondition, InvalidArgument
from chassis.tensors import Signature
from headrace.probe import Generate, named_inputs
from headrace.program import DATATYPES, TORCH_TYPES
from headrace.values import Value, datatype_of_value, fits, outputs_in_order
from inference_service.faults import BadOutput, ModelFailure, raised_by_model, reraise
from model_store.records import Manifest, Program

# Beyond this many different input shapes, new ones are checked at every call.
MOST_SHAPES = 4096


class Instance:
    """One build of a program. Not thread-safe: one thread at a time runs or fills it.

    `generate` is the method of that name of a decoupled model.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        program: Program,
        signature: Signature,
        device: torch.device,
        exported: bool,
        generate: Generate | None = None,
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
        self._generate = generate
        self._seen: set[tuple[tuple[int, ...], ...]] = set()

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

    def run(self, inputs: Sequence[Value]) -> list[Value]:
        """The outputs and new states in signature order, for inputs and states in that order.

        All on the device. To be called in inference mode. Raises InvalidArgument
        (UNSUPPORTED_SHAPE, UNSUPPORTED_VALUE), ResourceExhausted (OUT_OF_MEMORY), BadOutput,
        ModelFailure, and a device fault as it is.
        """
        try:
            result = self._forward(inputs) if self._exported else self._module(*inputs)
        except BaseException as error:
            reraise(error)
        return self._checked(result, self._rows(inputs))

    def generate(self, inputs: Sequence[Value]) -> Iterator[list[Value]]:
        """The responses of a decoupled model, each computed when it is asked for.

        A generator: close it to end the model's early. To be stepped in inference mode; a step
        raises what `run` does. The inputs must not change meanwhile.
        """
        rows = self._rows(inputs)
        responses = self._begun(named_inputs(self.signature, inputs))
        try:
            while True:
                try:
                    result = next(responses)
                except StopIteration:
                    return
                except BaseException as error:
                    reraise(error)
                yield self._checked(result, rows)
        finally:
            close = getattr(responses, "close", None)
            if close is not None:
                close()

    def _begun(self, named: dict[str, Value]) -> Iterator[Any]:
        assert self._generate is not None
        try:
            return iter(self._generate(self._module, named))
        except BaseException as error:
            reraise(error)

    def _rows(self, inputs: Sequence[Value]) -> int:
        return inputs[0].shape[0] if self.signature.max_batch_size else 0

    def _forward(self, inputs: Sequence[Value]) -> Any:
        """An exported program's forward pass."""
        shapes = tuple(tuple(value.shape) for value in inputs)
        try:
            return self._direct(*inputs) if shapes in self._seen else self._first_of(shapes, inputs)
        except IndexError as error:
            # An index looked up in a table: it came with the input.
            raise InvalidArgument(
                "UNSUPPORTED_VALUE",
                "an input holds an index outside the model's tables",
                field="inputs",
            ) from error

    def _first_of(self, shapes: tuple[tuple[int, ...], ...], inputs: Sequence[Value]) -> Any:
        try:
            result = self._module(*inputs)
        except RuntimeError as error:
            if not isinstance(raised_by_model(error), ModelFailure):
                raise
            given = ", ".join(str(list(shape)) for shape in shapes)
            raise InvalidArgument(
                "UNSUPPORTED_SHAPE",
                f"the model cannot compute inputs of shapes {given}",
                field="inputs",
            ) from error
        if len(self._seen) < MOST_SHAPES:
            self._seen.add(shapes)
        return result

    def _checked(self, result: Any, rows: int) -> list[Value]:
        try:
            outputs = outputs_in_order(result, self.signature)
        except InvalidArgument as error:
            raise BadOutput(error.message) from error
        for spec, value in zip(self.signature.results, outputs, strict=True):
            if not fits(value, spec, rows):
                raise BadOutput(
                    f"output {spec.name!r} is {datatype_of_value(value)} of shape "
                    f"{list(value.shape)} for {rows} rows; the signature promises {spec.datatype} "
                    f"of {list(spec.shape)}"
                )
        return outputs

    def __repr__(self) -> str:
        return f"Instance({self.program.kind}, {len(self.tensors)} tensors on {self.device})"


def check_supported(signature: Signature) -> None:
    """Refuses a signature with tensors that an exported program cannot have.

    Raises FailedPrecondition (UNSUPPORTED_DATATYPE, DECOUPLED_PROGRAM).
    """
    for spec in (*signature.inputs, *signature.outputs):
        if spec.datatype not in TORCH_TYPES:
            raise FailedPrecondition(
                "UNSUPPORTED_DATATYPE",
                f"tensor {spec.name!r} is {spec.datatype}, which torch has no type for; an "
                f"exported program has {', '.join(TORCH_TYPES)}",
            )
    if signature.decoupled:
        raise FailedPrecondition(
            "DECOUPLED_PROGRAM",
            "a decoupled model is Python code; an exported program cannot be one",
        )
