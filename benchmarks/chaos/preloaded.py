"""What children need, imported once before they are forked."""

from __future__ import annotations

import torch

from benchmarks.chaos import clients, collector, sampler, trainer
from headrace.program import preload

__all__ = ["clients", "collector", "sampler", "trainer"]

# A pool of threads would not survive the fork.
torch.set_num_threads(1)
preload()
