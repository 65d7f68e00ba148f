"""A plain PyTorch loop that publishes: three lines of it are Headrace's.

python -m examples.plain_loop --store file:///tmp/headrace --steps 200
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

import headrace


def main(argv: Sequence[str] | None = None) -> int:
    """Learns y = sum(x^2) of 8 numbers and publishes "squares" every 50 steps."""
    arguments = _parser().parse_args(argv)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    batch = torch.randn(64, 8)

    publisher = headrace.Publisher(arguments.store, model="squares", example_inputs=batch)
    for step in range(1, arguments.steps + 1):
        batch = torch.randn(64, 8)
        loss = functional.mse_loss(module(batch), batch.square().sum(dim=1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % arguments.publish_every == 0 or step == arguments.steps:
            version = publisher.publish(module, step=step, metrics={"loss": loss.item()})
            print(f"step {step}: loss {loss.item():.3f}, published version {version}")
    publisher.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="A plain PyTorch loop that publishes.")
    parser.add_argument("--store", required=True, help="model store URL, such as file:///tmp/x")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps (200)")
    parser.add_argument("--publish-every", type=int, default=50, help="steps between versions (50)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
