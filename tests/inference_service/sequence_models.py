"""Models that carry states, for tests: their answers can be recomputed by hand or by torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from headrace import Model, TensorSpec


class RunningSum(nn.Module):
    """(total, mean) of all rows so far, times `scale`; an index out of its table is refused."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([scale]))

    def forward(self, x, total, count):
        count = count + 1
        total = total + x
        return total * self.scale, total / count, total, count


class RunningSumModel(Model):
    name = "running"
    inputs = [TensorSpec("x", "FP32", (-1, 2))]
    outputs = [TensorSpec("sum", "FP32", (-1, 2)), TensorSpec("mean", "FP32", (-1, 2))]
    states = [TensorSpec("total", "FP32", (-1, 2)), TensorSpec("count", "INT64", (-1, 1))]
    max_batch_size = 8

    def build(self) -> nn.Module:
        return RunningSum()


class PickySum(RunningSum):
    """Changes its state in place and raises then, where a value is negative."""

    def forward(self, x, total, count):
        total.add_(x)
        if float(x.min()) < 0:
            raise ValueError("negative")
        return total * self.scale, total / (count + 1), total, count + 1


class PickySumModel(RunningSumModel):
    """Not exportable: it looks at its input."""

    def samples(self):
        return {"x": np.arange(16, dtype=np.float32).reshape(8, 2)}, None

    def build(self) -> nn.Module:
        return PickySum()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x, hidden):
        hidden = self.cell(x, hidden)
        return {"y": self.head(hidden), "hidden": hidden}


class RecurrentModel(Model):
    name = "running"
    inputs = [TensorSpec("x", "FP32", (-1, 3))]
    outputs = [TensorSpec("y", "FP32", (-1, 2))]
    states = [TensorSpec("hidden", "FP32", (-1, 5))]
    max_batch_size = 4

    def build(self) -> nn.Module:
        torch.manual_seed(7)
        return Recurrent()


class Whole(nn.Module):
    """Without a batch dimension: the sum of a vector and of all before it."""

    def forward(self, x, total):
        total = total + x.sum()
        return total, total.clone()


class WholeModel(Model):
    name = "running"
    inputs = [TensorSpec("x", "FP32", (3,))]
    outputs = [TensorSpec("sum", "FP32", (1,))]
    states = [TensorSpec("total", "FP32", (1,))]
    max_batch_size = 0

    def build(self) -> nn.Module:
        return Whole()
