"""The models that the conformance suite serves: one for each thing that the protocol can say.

Each computes something that its tests can compute too, exactly.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from headrace import Model, Padding, TensorSpec

TORCH_DATATYPES = (
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BF16",
)


class _Clone(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


class Identity(Model):
    """y = x, of one datatype; the model is called identity-fp32 and so on."""

    def __init__(self, datatype: str) -> None:
        self.name = f"identity-{datatype.lower()}"
        self.inputs = [TensorSpec("x", datatype, (-1, 4))]
        self.outputs = [TensorSpec("y", datatype, (-1, 4))]
        self.max_batch_size = 8

    def build(self) -> nn.Module:
        return _Clone()


class Mix(Model):
    """Two inputs of different datatypes and ranks, three outputs."""

    name = "mix"
    inputs = [TensorSpec("a", "FP32", (-1, 4)), TensorSpec("b", "INT32", (-1,))]
    outputs = [
        TensorSpec("sum", "FP32", (-1, 4)),
        TensorSpec("twice", "INT32", (-1,)),
        TensorSpec("wide", "INT64", (-1, 2, 2)),
    ]
    max_batch_size = 8

    def build(self) -> nn.Module:
        return _Mix()


class _Mix(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return a + b.unsqueeze(1), b * 2, a.to(torch.int64).reshape(-1, 2, 2)


class Flat(Model):
    """No batch dimension: two vectors and a scalar."""

    name = "flat"
    inputs = [TensorSpec("x", "FP32", (3,)), TensorSpec("factor", "FP32", ())]
    outputs = [TensorSpec("y", "FP32", (3,))]
    max_batch_size = 0

    def build(self) -> nn.Module:
        return _Flat()

    def samples(self):
        return {"x": np.ones(3, np.float32), "factor": np.array(2, np.float32)}, None


class _Flat(nn.Module):
    def forward(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return x * factor


class Ragged(Model):
    """A dimension of any size besides the batch."""

    name = "ragged"
    inputs = [TensorSpec("x", "FP32", (-1, -1))]
    outputs = [TensorSpec("total", "FP32", (-1, 1)), TensorSpec("y", "FP32", (-1, -1))]
    max_batch_size = 8

    def build(self) -> nn.Module:
        return _Ragged()


class Padded(Ragged):
    """The same, filled up to 4 or 8 wide so that widths share batches; its total tells."""

    name = "padded"
    padding = [Padding(axis=1, buckets=(4, 8), inputs={"x": 100}, outputs=("y",))]


class _Ragged(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.sum(dim=1, keepdim=True), x.clone()


class Lookup(Model):
    """Rows of a table by index; an index outside it poisons a batch."""

    name = "lookup"
    inputs = [TensorSpec("index", "INT64", (-1,))]
    outputs = [TensorSpec("row", "FP32", (-1, 2))]
    max_batch_size = 8

    def build(self) -> nn.Module:
        module = nn.Embedding(10, 2)
        with torch.no_grad():
            module.weight.copy_(torch.arange(20, dtype=torch.float32).reshape(10, 2))
        return module


class Text(Model):
    """Texts of any length, upper case, and their lengths in bytes; torch has no such tensors."""

    name = "text"
    inputs = [TensorSpec("x", "BYTES", (-1, 4))]
    outputs = [TensorSpec("y", "BYTES", (-1, 4)), TensorSpec("length", "INT32", (-1, 4))]
    max_batch_size = 8

    def build(self) -> nn.Module:
        return _Text()


class _Text(nn.Module):
    def forward(self, x: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
        lengths = [[len(text) for text in row] for row in x.tolist()]
        return x.copy(), torch.tensor(lengths, dtype=torch.int32)


class Classes(Model):
    """Scores as they came, with names for the classes."""

    name = "classes"
    inputs = [TensorSpec("x", "FP32", (-1, 3))]
    outputs = [TensorSpec("scores", "FP32", (-1, 3))]
    labels = {"scores": ("cat", "dog", "emu")}
    max_batch_size = 8

    def build(self) -> nn.Module:
        return _Clone()


class Count(Model):
    """Decoupled: `n` responses, 0 to n - 1."""

    name = "count"
    decoupled = True
    inputs = [TensorSpec("n", "INT32", (1,))]
    outputs = [TensorSpec("i", "INT32", (1,))]
    max_batch_size = 0

    def build(self) -> nn.Module:
        return nn.Identity()

    def generate(self, module: nn.Module, inputs):
        for number in range(int(inputs["n"][0])):
            yield {"i": torch.tensor([number], dtype=torch.int32)}


class Tally(Model):
    """Stateful: the sum of what its sequence has sent so far."""

    name = "tally"
    inputs = [TensorSpec("x", "INT64", (-1, 1))]
    outputs = [TensorSpec("total", "INT64", (-1, 1))]
    states = [TensorSpec("sum", "INT64", (-1, 1))]
    max_batch_size = 8

    def build(self) -> nn.Module:
        return _Tally()


class _Tally(nn.Module):
    def forward(self, x: torch.Tensor, total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + total, x + total


def all_models() -> list[Model]:
    """What the suite serves."""
    return [*plain_models(), Text(), Classes(), Count(), Tally()]


def plain_models() -> list[Model]:
    """Those that export and answer one request with one response."""
    identities = [Identity(datatype) for datatype in TORCH_DATATYPES]
    return [*identities, Mix(), Flat(), Ragged(), Padded(), Lookup()]
