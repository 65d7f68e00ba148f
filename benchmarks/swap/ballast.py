"""A model whose answers are exact and whose weights are as large as one likes.

Answers come from small integers: whoever knows the seed of a version computes them bit by bit.
Every tensor of the ballast changes with every version, so that no byte of it is spared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from chassis.tensors import TensorSpec
from headrace.model import Arrays, Model

WIDTH = 16
MIB = 1024 * 1024
# Of one tensor of the ballast.
PART_MIB = 8


class Weights(nn.Module):
    """16 -> 4 by integers, beside `mib` of ballast that only counts as bytes."""

    def __init__(self, mib: int) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, 4, bias=False)
        sizes = [min(PART_MIB, mib - at) for at in range(0, mib, PART_MIB)]
        self.ballast = nn.ParameterList(
            nn.Parameter(torch.zeros(size * MIB // 4)) for size in sizes
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x)
        for part in self.ballast:
            # Named in the graph, so that it is exported; always nothing.
            y = y + part[:1] * 0
        return y


class Ballast(Model):
    """Serves `Weights`."""

    inputs = [TensorSpec("x", "FP32", (-1, WIDTH))]
    outputs = [TensorSpec("y", "FP32", (-1, 4))]
    max_batch_size = 32

    def __init__(self, mib: int) -> None:
        self.mib = mib
        self.name = f"ballast-{mib}"

    def build(self) -> nn.Module:
        return fill(Weights(self.mib), 1)

    def samples(self) -> tuple[Arrays, None]:
        return {"x": rows(8, 0)}, None


def fill(module: Weights, seed: int) -> Weights:
    """The weights of that seed, in place."""
    with torch.no_grad():
        module.layer.weight.copy_(torch.from_numpy(layer_of(seed)))
        for at, part in enumerate(module.ballast):
            part.fill_(float(seed))
            # Else all parts would be one blob.
            part[0] = float(at + 1)
    return module


def layer_of(seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """4 x 16 integers in [-8, 8]."""
    return np.random.default_rng(seed).integers(-8, 9, (4, WIDTH)).astype(np.float32)


def rows(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Rows of integers in [-8, 8]."""
    return np.random.default_rng(seed).integers(-8, 9, (count, WIDTH)).astype(np.float32)
