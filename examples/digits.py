"""Handwritten digits: 1,797 real images of 8 x 8 pixels from scikit-learn, a fifth held out.

The small network and the gentle optimizer are chosen so that accuracy can be watched as it rises:
from a guess to 90 % in about 250 steps, which is 10 seconds at 25 steps per second.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from headrace import Model, TensorSpec
from headrace.model import Arrays

SPLIT_SEED = 0
HELD_OUT = 360


class Digits(Model):
    """Which digit an image shows: 64 pixels in [0, 1], row by row, to a score for each digit."""

    name = "digits"
    inputs = (TensorSpec("pixels", "FP32", (-1, 64)),)
    outputs = (TensorSpec("scores", "FP32", (-1, 10)),)
    max_batch_size = 64
    batch_size = 32

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    def dataset(self) -> Dataset[Any]:
        pixels, digits = self._split[0]
        return TensorDataset(torch.from_numpy(pixels), torch.from_numpy(digits))

    def loss(self, module: nn.Module, batch: Any) -> torch.Tensor:
        pixels, digits = batch
        return functional.cross_entropy(module(pixels), digits)

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        pixels, digits = (torch.from_numpy(array) for array in self._split[1])
        scores = module(pixels)
        right = scores.argmax(dim=1) == digits
        return {
            "accuracy": right.double().mean().item(),
            "loss": functional.cross_entropy(scores, digits).item(),
        }

    def samples(self) -> tuple[Arrays, np.ndarray[Any, Any] | None]:
        pixels, digits = self._split[1]
        return {"pixels": pixels}, digits

    @cached_property
    def _split(self) -> tuple[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]], ...]:
        """Training rows and held-out rows, each pixels and digits."""
        # Here, not above: scikit-learn takes a second to import, and serving does not need it.
        from sklearn.datasets import load_digits

        found = load_digits()
        pixels = (found.data / 16).astype(np.float32)
        digits = found.target.astype(np.int64)
        order = np.random.default_rng(SPLIT_SEED).permutation(len(digits))
        held_out, training = order[:HELD_OUT], order[HELD_OUT:]
        return (pixels[training], digits[training]), (pixels[held_out], digits[held_out])
