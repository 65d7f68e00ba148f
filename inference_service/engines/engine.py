"""The one interface behind an `Instance`: from inputs on the device to what the module returns.

Decides nothing. An engine computes with whatever lies in the tensors that it was bound to: a refill
writes into them and needs no word with the engine, so that a swap never compiles anything anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from headrace.values import Value

EAGER = "eager"
EXPORTED = "exported"
COMPILED = "compiled"
# The engine that a program brings: its own module's code, or its exported graph.
AS_PUBLISHED = "published"
# Measured at the first load.
AUTO = "auto"


class Engine(ABC):
    """Computes forward passes of one build. Not thread-safe."""

    # Which kind it is.
    name: str

    @abstractmethod
    def bind(self, storage: Mapping[str, torch.Tensor]) -> None:
        """The weights lie in `storage` from now on, by name, and are rewritten in place.

        Once, before the first `forward`.
        """

    @abstractmethod
    def forward(self, inputs: Sequence[Value]) -> Any:
        """What the module returns for inputs and states in the signature's order, on the device.

        Raises what the model's code raises, and InvalidArgument (UNSUPPORTED_SHAPE,
        UNSUPPORTED_VALUE) for inputs that it cannot compute.
        """

    def recorded_rows(self) -> Sequence[int]:
        """The batch sizes to be given to `record`, in this order; none where nothing is recorded.

        0 stands for a model without a batch dimension.
        """
        return ()

    def record(self, inputs: Sequence[Value]) -> None:
        """Records the pass of inputs like these, unless that is done or cannot be."""
        raise NotImplementedError(f"engine {self.name} records nothing")
