"""The exact model as a publisher has it. `ballast` makes a version as large as a scenario needs."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from benchmarks.chaos.exact import NAME, OUTPUTS, WIDTH, weights_of
from chassis.tensors import TensorSpec
from headrace.model import Model

SMALL = 16


class Layers(nn.Module):
    """16 -> 16 -> 4; `ballast` is all zeros and takes part in the answer, so that it is kept."""

    ballast: torch.Tensor

    def __init__(self, ballast: int) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, OUTPUTS)
        self.register_buffer("ballast", torch.zeros(ballast))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """FP32 (rows, 16) to (rows, 4)."""
        answer: torch.Tensor = self.last(torch.relu(self.first(x))) + self.ballast[:OUTPUTS]
        return answer


class Exact(Model):
    """`ballast` numbers beside the trained ones."""

    name = NAME
    inputs = (TensorSpec("x", "FP32", (-1, WIDTH)),)
    outputs = (TensorSpec("y", "FP32", (-1, OUTPUTS)),)
    max_batch_size = 16

    def __init__(self, ballast: int = SMALL) -> None:
        self.ballast = ballast

    def build(self) -> nn.Module:
        return Layers(self.ballast)


def fill(module: nn.Module, seed: int) -> None:
    """Makes the module the one that `seed` names."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(np.array(weights_of(seed)[name])))
