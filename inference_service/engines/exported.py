"""An exported program's graph, without the checks that it would make at every call.

The checks are hooks that cost more than a small model's forward pass (docs/models.md has the
figures): an input's shapes pass through them once, later batches of those shapes go straight to the
graph. Names, datatypes and ranks were checked against the signature before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from chassis.errors import InvalidArgument
from headrace.values import Value
from inference_service.engines.engine import EXPORTED, Engine
from inference_service.faults import ModelFailure, raised_by_model

# Beyond this many different input shapes, new ones are checked at every call.
MOST_SHAPES = 4096

Shapes = tuple[tuple[int, ...], ...]


def shapes_of(inputs: Sequence[Value]) -> Shapes:
    """The shapes, by which an engine remembers what it has checked."""
    return tuple(tuple(value.shape) for value in inputs)


class Exported(Engine):
    """Runs `module`, as `headrace.program.load_program` gives it."""

    name = EXPORTED

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._direct = module.forward
        self.checked: set[Shapes] = set()

    def bind(self, storage: Mapping[str, torch.Tensor]) -> None:
        """Nothing to do: the storage is the module's."""

    def forward(self, inputs: Sequence[Value]) -> Any:
        """The graph's result; of shapes seen for the first time, after the program's checks."""
        shapes = shapes_of(inputs)
        try:
            if shapes in self.checked:
                return self._direct(*inputs)
            return self._first_of(shapes, inputs)
        except IndexError as error:
            raise unsupported_value() from error

    def _first_of(self, shapes: Shapes, inputs: Sequence[Value]) -> Any:
        try:
            result = self.module(*inputs)
        except RuntimeError as error:
            if not isinstance(raised_by_model(error), ModelFailure):
                raise
            given = ", ".join(str(list(shape)) for shape in shapes)
            raise InvalidArgument(
                "UNSUPPORTED_SHAPE",
                f"the model cannot compute inputs of shapes {given}",
                field="inputs",
            ) from error
        if len(self.checked) < MOST_SHAPES:
            self.checked.add(shapes)
        return result


def unsupported_value() -> InvalidArgument:
    """An index was looked up in a table: it came with the input."""
    return InvalidArgument(
        "UNSUPPORTED_VALUE",
        "an input holds an index outside the model's tables",
        field="inputs",
    )
