"""A module in training: its steps, its evaluation, and the state from which it goes on exactly."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint import state_dict as canonical

from headrace.model import Model
from headrace.probe import undisturbed
from headrace.weights import unwrapped
from trainer_service.job.batches import Batches
from trainer_service.job.ranks import Ranks

Tensors = dict[str, Any]


class Learner:
    """`step` counts optimizer steps; weights and order of rows follow from `seed`."""

    def __init__(self, model: Model, ranks: Ranks, *, seed: int) -> None:
        self.model = model
        self.step = 0
        self._rank = ranks.rank
        # Every rank builds the same weights, then draws on its own.
        _seed_all(seed)
        self.module = ranks.wrapped(model.build().train())
        self._optimizer = model.optimizer(self.module)
        self._batches = Batches(
            model.dataset(), model.batch_size, seed=seed, rank=ranks.rank, world=ranks.world
        )
        _seed_all(seed + 1 + ranks.rank)

    def advance(self) -> float:
        """Makes one optimizer step; returns this rank's loss."""
        batch = self._batches.at(self.step)
        self._optimizer.zero_grad(set_to_none=True)
        loss = self.model.loss(self.module, batch)
        loss.backward()
        self._optimizer.step()
        self.step += 1
        return loss.item()

    def evaluate(self) -> dict[str, float]:
        """The Model's metrics; leaves no trace in the training."""
        inner = unwrapped(self.module)
        with undisturbed(inner):
            metrics = self.model.evaluate(inner)
        return {str(name): float(value) for name, value in metrics.items()}

    def tensors(self) -> Tensors:
        """Model, optimizer and random state, with names that do not depend on ranks or wrapping.

        On a fresh optimizer torch makes the state that the first step would make.
        """
        return {
            "model": canonical.get_model_state_dict(self.module),
            "optimizer": canonical.get_optimizer_state_dict(self.module, self._optimizer),
            f"random.{self._rank}": torch.get_rng_state(),
        }

    def take_tensors(self, tensors: Tensors) -> None:
        """The state that `tensors` gave."""
        canonical.set_model_state_dict(self.module, tensors["model"])
        canonical.set_optimizer_state_dict(self.module, self._optimizer, tensors["optimizer"])
        torch.set_rng_state(tensors[f"random.{self._rank}"])

    def facts(self) -> dict[str, Any]:
        """What is no tensor, as JSON values."""
        kind, keys, *rest = np.random.get_state()
        return {
            "step": self.step,
            "python_random": random.getstate(),
            "numpy_random": [kind, np.asarray(keys).tolist(), *rest],
        }

    def take_facts(self, facts: dict[str, Any]) -> None:
        """The state that `facts` gave."""
        self.step = facts["step"]
        version, internal, following = facts["python_random"]
        random.setstate((version, tuple(internal), following))
        np.random.set_state(tuple(facts["numpy_random"]))


def _seed_all(seed: int) -> None:
    torch.manual_seed(seed % 2**63)
    random.seed(seed)
    np.random.seed(seed % 2**32)
