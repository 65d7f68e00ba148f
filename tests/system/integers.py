"""A model whose arithmetic is exact: small integers in FP32; replies are checked bit by bit.

Sums of products stay far below 2**24, hence the result does not depend on batch size or order.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from headrace import Model, TensorSpec

WIDTH = 16


class Integers(Model):
    """16 -> 16 -> 4 with integer weights in [-8, 8]."""

    name = "integers"
    inputs = [TensorSpec("x", "FP32", (-1, WIDTH))]
    outputs = [TensorSpec("y", "FP32", (-1, 4))]
    max_batch_size = 16

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 4))

    def samples(self):
        return {"x": rows(32, seed=0)}, None


def rows(count: int, *, seed: int) -> np.ndarray:
    """`count` rows of integers in [-8, 8] as FP32."""
    return np.random.default_rng(seed).integers(-8, 9, (count, WIDTH)).astype(np.float32)


def filled(module: nn.Module, seed: int) -> dict[str, np.ndarray]:
    """Fills `module` with the integer weights of `seed`; returns a copy of them by name."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randint(-8, 9, parameter.shape, generator=draw).float())
    return {name: value.numpy().copy() for name, value in module.state_dict().items()}


def computed(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The model in numpy, exact."""
    hidden = np.maximum(x @ weights["0.weight"].T + weights["0.bias"], 0)
    return hidden @ weights["2.weight"].T + weights["2.bias"]
