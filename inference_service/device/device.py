"""The one seam to a device: in which order its work runs, and what a recorded pass is.

A lane is work that the device does in order, beside other lanes: one computes batches, each loader
has one of its own. What a thread asks of torch goes into the lane that it has entered and returns
before it is done. Marks order lanes: a lane that follows a mark goes on only when what was asked
before the mark is done. The host waits for a mark only where it needs the bytes.

Here is what a device can do; which lane follows which is decided by `handover` and `graph_pool`.
`InOrder` is a device that does everything at once, as a CPU does; the real other one is `cuda`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

# A point in a lane; what it is, only its device knows.
Mark: TypeAlias = Any


class Lane(ABC):
    """Work in order. Lanes that are the same one are equal."""

    @abstractmethod
    def entered(self) -> AbstractContextManager[Any]:
        """What this thread asks of torch meanwhile goes into this lane."""

    @abstractmethod
    def mark(self) -> Mark:
        """The point behind all that was asked so far."""

    @abstractmethod
    def follow(self, mark: Mark) -> None:
        """What is asked from now on begins after `mark`. The host does not wait."""


class CannotRecord(Exception):
    """A forward pass that no graph can be made of; the text says why."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A forward pass that can be repeated: `replay`, in the lane that the thread has entered,
    computes `outputs` anew from what then lies in the inputs it was recorded with."""

    replay: Callable[[], None]
    outputs: Sequence[torch.Tensor]
    # Keeps the memory that the pass computes in.
    memory: Any


class Device(ABC):
    """Thread-safe."""

    torch_device: torch.device
    # The lane that computes batches.
    inference: Lane
    # Whether its memory is not the host's, and bytes have to be brought there.
    apart: bool
    # Whether it records forward passes.
    records: bool

    @abstractmethod
    def lane(self) -> Lane:
        """One more, which gives way to `inference`."""

    @abstractmethod
    def current(self) -> Lane:
        """The lane that this thread has entered."""

    @abstractmethod
    def wait(self, mark: Mark) -> None:
        """Returns once what was asked before `mark` is done. Raises a device's fault."""

    @abstractmethod
    def host_memory(self, size: int) -> torch.Tensor:
        """`size` bytes, UINT8, from and to which the device copies by itself."""

    @abstractmethod
    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copies between `host_memory` and the device in the lane entered; both contiguous and of
        one datatype and shape. Neither may change before a mark behind it."""

    @abstractmethod
    def record(
        self, compute: Callable[[], Sequence[torch.Tensor]], beside: Recording | None
    ) -> Recording:
        """Records what `compute` asks of the device, without doing it.

        It computes in the memory of `beside`, if given: two that share memory must not be replayed
        at the same time. Raises CannotRecord.
        """


class _OnlyLane(Lane):
    def entered(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def mark(self) -> Mark:
        return None

    def follow(self, mark: Mark) -> None:
        """Nothing to do: all that was asked is done."""


class InOrder(Device):
    """Does what it is asked before the call returns; has one lane and no graphs."""

    apart = False
    records = False

    def __init__(self, device: torch.device | None = None) -> None:
        self.torch_device = device or torch.device("cpu")
        self.inference = _OnlyLane()

    def lane(self) -> Lane:
        """The only one."""
        return self.inference

    def current(self) -> Lane:
        """The only one."""
        return self.inference

    def wait(self, mark: Mark) -> None:
        """Nothing to wait for."""

    def host_memory(self, size: int) -> torch.Tensor:
        """As any memory."""
        return torch.empty(size, dtype=torch.uint8)

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """At once."""
        target.copy_(source)

    def record(
        self, compute: Callable[[], Sequence[torch.Tensor]], beside: Recording | None
    ) -> Recording:
        """Raises CannotRecord."""
        raise CannotRecord(f"device {self.torch_device} records no graphs")


IN_ORDER = InOrder()
