"""Models for the trainer's tests: quick to import, to build and to train."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from headrace import Model, TensorSpec

ROWS = 90


class Tiny(Model):
    """Learns the sum of four numbers; dropout and BatchNorm make random and running state."""

    name = "tiny"
    inputs = (TensorSpec("x", "FP32", (-1, 4)),)
    outputs = (TensorSpec("y", "FP32", (-1, 1)),)
    batch_size = 8

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1)
        )

    def dataset(self) -> Dataset[Any]:
        drawn = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1))
        return TensorDataset(drawn, drawn.sum(dim=1, keepdim=True))

    def loss(self, module: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return functional.mse_loss(module(x), y)

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(module.parameters(), lr=1e-2)

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        x, y = self.dataset()[:]
        # Evaluation may draw; the training must not notice.
        torch.rand(3)
        return {"error": functional.mse_loss(module(x), y).item()}


class Agreeing(Tiny):
    """Fails the job where two ranks' weights differ, or where two ranks see the same rows."""

    name = "agreeing"

    def loss(self, module: nn.Module, batch: Any) -> torch.Tensor:
        mine = torch.cat([value.detach().reshape(-1) for value in module.parameters()])
        theirs = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
        distributed.all_gather(theirs, mine)
        if not all(torch.equal(mine, other) for other in theirs):
            raise RuntimeError("ranks disagree about the weights")
        rows = [torch.empty_like(batch[0]) for _ in theirs]
        distributed.all_gather(rows, batch[0])
        if torch.equal(rows[0], rows[1]):
            raise RuntimeError("ranks see the same rows")
        return super().loss(module, batch)


class Diverging(Tiny):
    """Its weights are NaN after the first step."""

    name = "diverging"

    def loss(self, module: nn.Module, batch: Any) -> torch.Tensor:
        return super().loss(module, batch) * float("nan")


class Unbuildable(Tiny):
    """Fails before its first step, and would every time."""

    name = "unbuildable"

    def build(self) -> nn.Module:
        raise TypeError("four is not a layer")
