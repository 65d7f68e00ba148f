"""The module's own Python code, called as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from headrace.values import Value
from inference_service.engines.engine import EAGER, Engine


class Eager(Engine):
    """Calls `module`, whose own tensors are the storage."""

    name = EAGER

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def bind(self, storage: Mapping[str, torch.Tensor]) -> None:
        """Nothing to do: the storage is the module's."""

    def forward(self, inputs: Sequence[Value]) -> Any:
        """The module's forward."""
        return self._module(*inputs)
