"""A small perceptron, as recommenders and fraud filters end in: 64 features to 10 scores.

For measuring: its forward pass costs so little that what is measured is the way there and back.
"""

from __future__ import annotations

from torch import nn

from headrace import Model, TensorSpec


class Mlp(Model):
    """64-256-256-10 with ReLU; fresh weights, nothing to train on."""

    name = "mlp"
    inputs = (TensorSpec("features", "FP32", (-1, 64)),)
    outputs = (TensorSpec("scores", "FP32", (-1, 10)),)
    max_batch_size = 64

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
        )
