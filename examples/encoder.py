"""A transformer encoder of the size that serves well on one core: embedded tokens to a vector.

For measuring: its forward pass costs milliseconds, so that batching and scheduling show.
"""

from __future__ import annotations

import torch
from torch import nn

from headrace import Model, TensorSpec

LAYERS, WIDTH, HEADS, TOKENS = 6, 384, 12, 32


class MeanPooledEncoder(nn.Module):
    """Pre-norm encoder layers; the mean over tokens is the answer."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH,
            HEADS,
            4 * WIDTH,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """FP32 (rows, 32, 384) to FP32 (rows, 384)."""
        pooled: torch.Tensor = self.layers(tokens).mean(dim=1)
        return pooled


class Encoder(Model):
    """6 layers, width 384, 12 heads, 32 tokens: 10.6 million parameters with fresh weights."""

    name = "encoder"
    inputs = (TensorSpec("tokens", "FP32", (-1, TOKENS, WIDTH)),)
    outputs = (TensorSpec("vector", "FP32", (-1, WIDTH)),)
    max_batch_size = 32

    def build(self) -> nn.Module:
        return MeanPooledEncoder()
