"""A character-level language model that learns to write about a mill, and streams what it writes.

A generative (decoupled) model: text in, text out, one response a character. The text it learns is
below: 150 steps, two seconds on one core, take it from noise to words.

headrace up --model examples.characters:Characters --rate 20
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from headrace import InvalidArgument, Model, TensorSpec
from headrace.model import Arrays
from headrace.values import Value

TEXT = """
The mill stands where the valley narrows. Above it lies the pond, and from the pond the headrace
runs along the hill, straight and level, a channel of stone that the first miller built. It brings
fresh water to the wheel. The water falls on the paddles, the wheel turns, the shaft turns with the
wheel, and the stones turn with the shaft. What the farmers bring as grain they take home as flour.
When the water is high the wheel runs fast, and the miller lowers the gate. When the water is low he
raises the gate and waits. He never stops the wheel to change the water. The old water leaves by the
tail race, the new water comes by the head race, and the wheel knows nothing of it but the weight.
In the spring the ice breaks and the river brings branches. The rake holds them back, so that
nothing but water reaches the wheel. The miller looks at the rake in the morning and in the evening.
What is good goes through, what is broken stays outside, and the mill grinds on while he looks.
In the summer the children sit on the wall of the channel and let their boats sail to the gate. A
boat that reaches the gate has won. The miller takes the boats out with a long fork and gives them
back, and says that the water is for the wheel and the wheel is for the bread.
In the autumn the carts come from all the farms at once. There is a line before the door, and who
came first is served first, but a widow with one small sack does not wait behind a man with forty.
The stones are never empty, for the next sack stands open before the last of the grain has gone.
In the winter the wheel carries a beard of ice, and the miller breaks it with a pole, a little every
hour, so that it never grows too heavy. The water below the ice is the same water, and the wheel
below the ice is the same wheel. At night one hears the stones from far away, and sleeps the better.
The miller is old, and his daughter minds the gate. She has cut a mark into the stone for every
summer, and she knows by the mark how the river will be. When she opens the gate the water runs
along the hill, straight and level, and the wheel turns, and the stones turn, and the flour is
fresh.
"""

# Of a byte that the text does not have, the first of them, a line's end, takes the place.
ALPHABET = "".join(sorted(set(TEXT)))
LENGTH = 40
HELD_OUT = 200
MOST_TOKENS = 256


class Scribe(nn.Module):
    """A GRU over characters: what comes next, at each place."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(ALPHABET), 24)
        self.memory = nn.GRU(24, 96, batch_first=True)
        self.next = nn.Linear(96, len(ALPHABET))

    def forward(
        self, letters: torch.Tensor, memory: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """INT64 (rows, length) to scores (rows, length, letters), and what it remembers."""
        hidden, memory = self.memory(self.letters(letters), memory)
        return self.next(hidden), memory


class Characters(Model):
    """Goes on from a prompt for `max_new_tokens` characters, each the likeliest one."""

    name = "characters"
    inputs = (TensorSpec("prompt", "BYTES", (1,)), TensorSpec("max_new_tokens", "INT32", (1,)))
    outputs = (TensorSpec("text", "BYTES", (1,)),)
    max_batch_size = 0
    batch_size = 32
    decoupled = True

    def build(self) -> nn.Module:
        return Scribe()

    def generate(self, module: nn.Module, inputs: dict[str, Value]) -> Iterator[dict[str, Value]]:
        prompt = bytes(inputs["prompt"][0])
        count = int(inputs["max_new_tokens"][0])
        if not prompt:
            raise InvalidArgument("EMPTY_PROMPT", "the prompt is empty; expected a text")
        if not 1 <= count <= MOST_TOKENS:
            raise InvalidArgument(
                "BAD_MAX_NEW_TOKENS", f"max_new_tokens is {count}; expected 1 to {MOST_TOKENS}"
            )
        device = next(module.parameters()).device
        # The first step reads the prompt, every other one the letter before it.
        letters, memory = encoded(prompt[-MOST_TOKENS:].decode("latin-1")), None
        for _ in range(count):
            scores, memory = module(letters.to(device)[None], memory)
            letters = scores[0, -1:].argmax(dim=1).cpu()
            yield {"text": np.array([ALPHABET[int(letters)]], dtype=np.object_)}

    def dataset(self) -> Dataset[Any]:
        letters = encoded(TEXT[:-HELD_OUT])
        return TensorDataset(letters.unfold(0, LENGTH + 1, 1))

    def loss(self, module: nn.Module, batch: Any) -> torch.Tensor:
        (letters,) = batch
        return _surprise(module, letters)

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(module.parameters(), lr=8e-3)

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        letters = encoded(TEXT[-HELD_OUT:])[None]
        right = module(letters[:, :-1])[0].argmax(dim=2) == letters[:, 1:]
        return {
            "loss": _surprise(module, letters).item(),
            "accuracy": right.double().mean().item(),
        }

    def samples(self) -> tuple[Arrays, np.ndarray[Any, Any] | None]:
        prompt = np.array([b"The wheel "], dtype=np.object_)
        return {"prompt": prompt, "max_new_tokens": np.array([12], dtype=np.int32)}, None


def encoded(text: str) -> torch.Tensor:
    """INT64 (length,): each letter's place in the alphabet."""
    return torch.tensor([max(ALPHABET.find(letter), 0) for letter in text])


def _surprise(module: nn.Module, letters: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of each next letter, in nats."""
    scores, _ = module(letters[:, :-1])
    return functional.cross_entropy(scores.flatten(0, 1), letters[:, 1:].flatten())
