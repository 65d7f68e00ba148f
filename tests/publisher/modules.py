"""Modules with the features that publishing must not trip over, and Models made of them."""

from __future__ import annotations

import torch
from torch import nn

from headrace import Model, TensorSpec

SPEC = TensorSpec("x", "FP32", (-1, 8))
SCORES = TensorSpec("scores", "FP32", (-1, 8))


class Featured(nn.Module):
    """Tied weights, an int64 scalar buffer, a buffer outside the state, dropout, a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("ramp", torch.arange(8.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.second(torch.relu(self.first(x))))) + self.ramp


class Counting(nn.Module):
    """Counts its calls in a buffer, in eval mode too, and draws random numbers in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.mean = self.mean * 0.5 + x.mean(dim=0) * 0.5
        return self.linear(x) + 0 * torch.rand(8)


class Branching(nn.Module):
    """Control flow that depends on values: torch.export refuses it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) if x.sum() > 0 else -self.linear(x)


class TwoWay(nn.Module):
    """Two inputs, two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": self.linear(left + right), "difference": self.linear(left - right)}


class Halves(nn.Module):
    """Two outputs in a tuple."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[:, :4] * 2, x[:, 4:] * 2


class Plain(Model):
    """Featured as a Model."""

    name = "plain"
    inputs = (SPEC,)
    outputs = (SCORES,)

    def build(self) -> nn.Module:
        return Featured()


class Unexportable(Model):
    """Branching as a Model that another process can import."""

    name = "branching"
    inputs = (SPEC,)
    outputs = (SCORES,)

    def build(self) -> nn.Module:
        return Branching()
