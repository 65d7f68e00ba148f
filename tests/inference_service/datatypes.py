"""Models of every datatype: what goes in comes out, whichever way the program travelled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from chassis.tensors import NUMPY_TYPES
from headrace import InvalidArgument, Model, TensorSpec
from headrace.program import TORCH_TYPES

ROWS = 3


class Echo(nn.Module):
    """Returns copies of all its inputs."""

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(value.clone() for value in inputs)


class Same(nn.Module):
    """Returns its inputs themselves, and branches so that it does not export."""

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return inputs if int(inputs[0].double().sum()) >= 0 else inputs[::-1]


class EveryNumber(Model):
    """All 13 datatypes of numbers at once; exports."""

    name = "affine"
    inputs = tuple(TensorSpec(f"in_{name}", name, (-1, 2)) for name in TORCH_TYPES)
    outputs = tuple(TensorSpec(f"out_{name}", name, (-1, 2)) for name in TORCH_TYPES)
    max_batch_size = 8

    def build(self) -> nn.Module:
        return Echo()

    def samples(self) -> tuple[dict[str, np.ndarray[Any, Any]], None]:
        return {spec.name: extremes(spec.datatype) for spec in self.inputs}, None


class EveryNumberByPath(EveryNumber):
    """The same as Python code, warmed up with zeros and ones that nobody chose."""

    def build(self) -> nn.Module:
        return Same()

    samples = Model.samples


class Shout(nn.Module):
    """Upper case and the number of bytes of each text; a text of digits it cannot do."""

    def forward(self, text: np.ndarray[Any, Any]) -> dict[str, Any]:
        for element in text.reshape(-1):
            if element == b"missing":
                _ = {}["secret of the module"]
            if element == b"exit":
                raise SystemExit(3)
            if element == b"empty":
                raise InvalidArgument("EMPTY_TEXT", "a text is empty; expected words")
            if element == b"huge":
                torch.empty(2**50)
            if element == b"short":
                return {"shouted": text[:0], "size": torch.zeros(0, 2, dtype=torch.int64)}
        shouted = np.array([element.upper() for element in text.reshape(-1)], dtype=np.object_)
        sizes = torch.tensor([[len(element) for element in row] for row in text])
        return {"size": sizes, "shouted": shouted.reshape(text.shape)}


class ShoutModel(Model):
    """BYTES in, BYTES and INT64 out."""

    name = "affine"
    inputs = (TensorSpec("text", "BYTES", (-1, 2)),)
    outputs = (TensorSpec("shouted", "BYTES", (-1, 2)), TensorSpec("size", "INT64", (-1, 2)))
    max_batch_size = 8

    def build(self) -> nn.Module:
        return Shout()


class Drawing(nn.Module):
    """Never says the same thing twice."""

    def forward(self, text: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.array([[str(torch.rand(()).item())] for _ in text], dtype=np.object_)


class DrawingModel(ShoutModel):
    inputs = (TensorSpec("text", "BYTES", (-1, 1)),)
    outputs = inputs

    def build(self) -> nn.Module:
        return Drawing()

    def samples(self) -> tuple[dict[str, np.ndarray[Any, Any]], None]:
        # Another number each time: draws of the module are not repeated by a fixed seed alone.
        torch.rand(7)
        return super().samples()


def extremes(datatype: str) -> np.ndarray[Any, Any]:
    """(3, 2) with the smallest and largest numbers of a datatype; BF16 as its bits."""
    dtype = NUMPY_TYPES[datatype]
    if datatype == "BOOL":
        values: list[Any] = [False, True, True, False, True, True]
    elif datatype == "BF16":
        values = [0, 0x3F80, 0xBF80, 0x7F7F, 0x0001, 0x4049]
    elif dtype.kind == "f":
        limits = np.finfo(dtype)
        values = [0, limits.max, limits.min, limits.tiny, 1.5, -2.25]
    else:
        whole = np.iinfo(dtype)
        values = [whole.min, whole.max, 0, 1, whole.max - 1, 7]
    return np.array(values, dtype=dtype).reshape(ROWS, 2)
