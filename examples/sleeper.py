"""A model whose forward pass only takes time: l(rows) = alpha + beta * rows milliseconds.

For measuring schedulers: the replica waits instead of computing, so many of them share one core and
none of them is the limit. Both times are weights: a version published with others changes the
speed of the replicas that serve it.

python -m examples.sleeper --store file:///tmp/headrace --alpha-ms 5 --beta-ms 0.25
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from torch import nn

from headrace import Model, Publisher, TensorSpec
from headrace.model import load_model


class Sleep(nn.Module):
    """Gives its input back after alpha + beta * rows milliseconds."""

    alpha_ms: torch.Tensor
    beta_ms: torch.Tensor

    def __init__(self, alpha_ms: float, beta_ms: float) -> None:
        super().__init__()
        self.register_buffer("alpha_ms", torch.tensor(alpha_ms, dtype=torch.float64))
        self.register_buffer("beta_ms", torch.tensor(beta_ms, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """FP32 (rows, 1) to the same."""
        if torch.compiler.is_exporting():
            raise TypeError("a recorded graph would not sleep: replicas import the class")
        time.sleep((self.alpha_ms.item() + self.beta_ms.item() * len(x)) / 1e3)
        return x.clone()


class Sleeper(Model):
    """One number a row; 5 ms and 0.25 ms a row unless made with other times."""

    name = "sleeper"
    inputs = (TensorSpec("x", "FP32", (-1, 1)),)
    outputs = (TensorSpec("y", "FP32", (-1, 1)),)
    max_batch_size = 64

    def __init__(self, alpha_ms: float = 5.0, beta_ms: float = 0.25) -> None:
        self.alpha_ms = alpha_ms
        self.beta_ms = beta_ms

    def build(self) -> nn.Module:
        return Sleep(self.alpha_ms, self.beta_ms)


def main(argv: Sequence[str] | None = None) -> int:
    """Publishes one version with the times asked for."""
    parser = argparse.ArgumentParser(description="Publishes a model that sleeps.")
    parser.add_argument("--store", required=True, help="model store URL, such as file:///tmp/x")
    parser.add_argument("--alpha-ms", type=float, default=5.0, help="per batch (5)")
    parser.add_argument("--beta-ms", type=float, default=0.25, help="per row (0.25)")
    arguments = parser.parse_args(argv)
    # The class as a replica imports it: here it is __main__'s.
    model = load_model("examples.sleeper:Sleeper")
    module = Sleep(arguments.alpha_ms, arguments.beta_ms)
    with Publisher(arguments.store, model=model) as publisher:
        print(f"published version {publisher.publish(module)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
