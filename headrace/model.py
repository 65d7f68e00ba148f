"""What a user writes: a model's interface, its module and, if we are to train it, how.

Serving needs `name`, `inputs`, `outputs`, `max_batch_size` and `build`. Training needs `dataset`,
`loss` and, as far as the defaults do not fit, `optimizer`, `batch_size` and `evaluate`. Golden
inputs and live traffic come from `samples`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from chassis.errors import InvalidArgument, Unimplemented
from chassis.names import checked_name
from chassis.tensors import NUMPY_TYPES, Padding, Signature, TensorSpec
from headrace.values import Value

Arrays = dict[str, np.ndarray[Any, Any]]


class Model:
    """A named line of versions. Subclass it; the class attributes are its declaration."""

    # By the grammar of names; the model's name in the store and in requests.
    name: str = ""
    # In the order of the module's forward arguments, shapes with a leading -1 for the batch.
    inputs: Sequence[TensorSpec] = ()
    # In the order of what forward returns (a tensor, a sequence of tensors, or a dict by name).
    outputs: Sequence[TensorSpec] = ()
    # Rows; 0 for a model whose tensors have no batch dimension.
    max_batch_size: int = 64
    # Rows of one training step on one process.
    batch_size: int = 64
    # True where `generate` answers one request with any number of responses.
    decoupled: bool = False
    # Tensors carried from a request to the next of its sequence: forward takes them after the
    # inputs and returns them after the outputs.
    states: Sequence[TensorSpec] = ()
    # Dimensions filled up to a few sizes, so that requests of different sizes batch.
    padding: Sequence[Padding] = ()
    # Names of the classes of an output, by the output's name, for clients that ask for them.
    labels: Mapping[str, Sequence[str]] = {}

    @property
    def signature(self) -> Signature:
        """What it takes and gives. Raises InvalidArgument (BAD_SPEC, BAD_NAME)."""
        checked_name(self.name, what="model")
        return Signature(
            tuple(self.inputs),
            tuple(self.outputs),
            self.max_batch_size,
            self.decoupled,
            tuple(self.states),
            tuple(self.padding),
            tuple((name, tuple(names)) for name, names in self.labels.items()),
        )

    def build(self) -> nn.Module:
        """A new module with fresh weights."""
        raise Unimplemented("NO_BUILD", f"{type(self).__name__} does not define build()")

    def generate(self, module: nn.Module, inputs: dict[str, Value]) -> Iterator[dict[str, Value]]:
        """The responses of a decoupled model to one request, one a step; for `decoupled` only.

        `inputs` holds each input by name, on the module's device: a tensor, or for BYTES a numpy
        object array of `bytes`. Yield the outputs by name, each response with as many rows as the
        inputs where the model batches. Runs in inference mode; between two steps other requests
        are computed, so keep a step short. It is closed (GeneratorExit) when nobody waits for
        more. An input it cannot handle: raise headrace.InvalidArgument(reason, sentence).
        """
        raise Unimplemented("NO_GENERATE", f"{type(self).__name__} does not define generate()")

    def dataset(self) -> Dataset[Any]:
        """The training rows; a map-style dataset whose items torch's default collate can join."""
        raise Unimplemented("NO_DATASET", f"{type(self).__name__} does not define dataset()")

    def loss(self, module: nn.Module, batch: Any) -> torch.Tensor:
        """The scalar training loss of `module` on one collated batch."""
        raise Unimplemented("NO_LOSS", f"{type(self).__name__} does not define loss()")

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of `module`'s parameters; AdamW at 1e-3 unless overridden."""
        return torch.optim.AdamW(module.parameters(), lr=1e-3)

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Metrics on held-out rows, by name; the module is in eval mode, without gradients."""
        return {}

    def samples(self) -> tuple[Arrays, np.ndarray[Any, Any] | None]:
        """Held-out rows for probes and live traffic: inputs by name, and labels or None.

        All arrays have the same number of rows. The default makes 64 seeded random rows.
        """
        draw = np.random.default_rng(0)
        rows = 64 if self.max_batch_size else 1
        return {spec.name: _random(draw, spec, rows) for spec in self.inputs}, None

    def score(
        self, outputs: Mapping[str, np.ndarray[Any, Any]], labels: np.ndarray[Any, Any]
    ) -> np.ndarray[Any, Any]:
        """Goodness of each row in [0, 1]; by default whether the first output's argmax is right."""
        first = outputs[self.outputs[0].name]
        right: np.ndarray[Any, Any] = first.reshape(len(labels), -1).argmax(axis=1) == labels
        return right.astype(np.float64)


def load_model(path: str) -> Model:
    """An instance of the Model that "package.module:Class" names.

    Raises InvalidArgument (BAD_IMPORT_PATH) with what is wrong.
    """
    module_name, _, class_name = path.partition(":")
    expected = 'expected "package.module:Class" of a headrace.Model'
    if not module_name or not class_name:
        raise InvalidArgument("BAD_IMPORT_PATH", f"model {path!r}: {expected}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InvalidArgument("BAD_IMPORT_PATH", f"model {path!r}: {error}; {expected}") from None
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Model)):
        raise InvalidArgument(
            "BAD_IMPORT_PATH", f"model {path!r}: {class_name} is no headrace.Model; {expected}"
        )
    return found()


def _random(draw: np.random.Generator, spec: TensorSpec, rows: int) -> np.ndarray[Any, Any]:
    shape = tuple(
        rows if index == 0 and size == -1 else (8 if size == -1 else size)
        for index, size in enumerate(spec.shape)
    )
    dtype = NUMPY_TYPES[spec.datatype]
    if spec.datatype == "BYTES":
        return np.full(shape, b"sample", dtype=dtype)
    if dtype.kind == "f":
        return draw.standard_normal(shape).astype(dtype)
    return draw.integers(0, 2, shape).astype(dtype)
