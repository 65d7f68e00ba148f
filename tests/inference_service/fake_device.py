"""A device made of this process's memory that is late on purpose and knows what may race.

A copy is done only when a mark behind it is waited for, or something is computed in a lane that it
comes before: whoever forgets a mark computes with the bytes of before. And every access to memory
is checked against those of other lanes: two of which one writes have to be ordered by marks, by a
lane or by the host's waiting, else `Race` is raised.

What is computed is told by `touch`; the instances and engines of the tests do it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from inference_service.device.device import CannotRecord, Device, Lane, Recording

Clock = dict[int, int]


class Race(AssertionError):
    """Two lanes at one memory, in no order."""


@dataclass(frozen=True)
class FakeMark:
    lane: FakeLane
    at: int
    clock: Clock


@dataclass(frozen=True)
class Access:
    lane: int
    at: int
    writes: bool


@dataclass(eq=False)
class FakeLane(Lane):
    device: FakeDevice
    number: int
    asked: int = 0
    done: int = 0
    queue: list[Callable[[], None]] = field(default_factory=list)
    clock: Clock = field(default_factory=dict)

    @contextmanager
    def entered(self) -> Iterator[None]:
        before = self.device.current()
        self.device.local.lane = self
        try:
            yield
        finally:
            self.device.local.lane = before

    def mark(self) -> FakeMark:
        with self.device.lock:
            self.device.log.append(("mark", self.number))
            return FakeMark(self, self.asked, dict(self.clock))

    def follow(self, mark: FakeMark) -> None:
        with self.device.lock:
            self.device.log.append(("follow", self.number, mark.lane.number))
            self.ask(lambda: mark.lane.run(mark.at))
            merge(self.clock, mark.clock)

    def ask(self, operation: Callable[[], None]) -> None:
        self.queue.append(operation)
        self.asked += 1
        merge(self.clock, self.device.waited)
        self.clock[self.number] = self.asked

    def run(self, until: int) -> None:
        while self.done < until:
            self.done += 1
            self.queue.pop(0)()


class FakeDevice(Device):
    torch_device = torch.device("cpu")
    apart = True
    records = True

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.local = threading.local()
        self.log: list[tuple[object, ...]] = []
        self.waited: Clock = {}
        self.lanes: list[FakeLane] = []
        self.accesses: dict[object, list[Access]] = {}
        # Storages that a recording under way touches, None outside one.
        self.touched: list[object] | None = None
        self.refuses = ""
        self.other = self.lane()
        self.inference = self.lane()

    def lane(self) -> FakeLane:
        made = FakeLane(self, len(self.lanes))
        self.lanes.append(made)
        return made

    def current(self) -> FakeLane:
        return getattr(self.local, "lane", self.other)

    def wait(self, mark: FakeMark) -> None:
        with self.lock:
            mark.lane.run(mark.at)
            merge(self.waited, mark.clock)

    def host_memory(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8)

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        with self.lock:
            lane = self.current()
            lane.ask(lambda: target.copy_(source))
            self.access(lane, storage(source), writes=False)
            self.access(lane, storage(target), writes=True)

    def touch(self, tensors: Sequence[torch.Tensor]) -> None:
        """A pass in the lane entered reads them."""
        with self.lock:
            keys = [storage(tensor) for tensor in tensors]
            if self.touched is not None:
                self.touched += keys
                return
            lane = self.current()
            lane.ask(lambda: None)
            lane.run(lane.asked)
            for key in keys:
                self.access(lane, key, writes=False)

    def record(self, compute, beside) -> Recording:
        if self.refuses:
            raise CannotRecord(self.refuses)
        with self.lock:
            self.touched = []
            try:
                made = compute()
            finally:
                touched, self.touched = self.touched, None
        # A recording computes nothing.
        outputs = [torch.zeros_like(value) for value in made]
        memory = Memory() if beside is None else beside.memory

        def replay() -> None:
            with self.lock:
                lane = self.current()
                lane.ask(lambda: None)
                lane.run(lane.asked)
                for key in touched:
                    self.access(lane, key, writes=False)
                self.access(lane, memory, writes=True)
                self.touched = []
                for output, value in zip(outputs, compute(), strict=True):
                    output.copy_(value)
                self.touched = None

        return Recording(replay, outputs, memory)

    def access(self, lane: FakeLane, key: object, *, writes: bool) -> None:
        found = self.accesses.setdefault(key, [])
        for other in found:
            ordered = other.lane == lane.number or lane.clock.get(other.lane, 0) >= other.at
            if (writes or other.writes) and not ordered:
                raise Race(f"lanes {other.lane} and {lane.number} at {key}")
        mine = Access(lane.number, lane.asked, writes)
        found[:] = [o for o in found if (o.lane, o.writes) != (lane.number, writes)] + [mine]


class Memory:
    """What recordings share."""


def storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def merge(clock: Clock, other: Clock) -> None:
    for lane, at in other.items():
        clock[lane] = max(clock.get(lane, 0), at)
