"""The processes of a job and the few things on which they must agree.

Decides that rank 0's word counts: it alone hears commands, evaluates and publishes.
"""

from __future__ import annotations

import torch
from torch import distributed, nn


class Ranks:
    """One process alone, or several joined over gloo, as torchrun's environment says."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.rank = 0
        if world > 1:
            distributed.init_process_group("gloo")
            self.rank = distributed.get_rank()

    @property
    def first(self) -> bool:
        """Whether this is the rank that decides."""
        return self.rank == 0

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over all ranks."""
        return nn.parallel.DistributedDataParallel(module) if self.world > 1 else module

    def agreed(self, flag: bool) -> bool:
        """Rank 0's `flag`, on every rank; waits for all of them."""
        if self.world == 1:
            return flag
        word = torch.tensor([flag], dtype=torch.uint8)
        distributed.broadcast(word, 0)
        return bool(word.item())

    def all_agree(self, flag: bool) -> bool:
        """Whether `flag` is true on every rank; waits for all of them."""
        if self.world == 1:
            return flag
        lowest = torch.tensor([flag], dtype=torch.uint8)
        distributed.all_reduce(lowest, distributed.ReduceOp.MIN)
        return bool(lowest.item())

    def wait_for_all(self) -> None:
        """Returns when every rank has come here."""
        if self.world > 1:
            distributed.barrier()

    def leave(self) -> None:
        """Ends the process group."""
        if self.world > 1:
            distributed.destroy_process_group()
