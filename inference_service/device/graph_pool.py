"""Recorded passes of a model's slots in one piece of memory, and what became of them.

Both slots' recordings share the memory that they compute in: only one replays at a time. A load
rehearses the new version in a lane of its own while batches are computed, so a replay follows the
one before it where that was another lane's. Counts what was recorded and what was computed
without.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from inference_service.device.device import Device, Lane, Mark, Recording


@dataclass(frozen=True, slots=True)
class GraphCounts:
    """Since the model is served here: passes recorded, those among them that had been recorded
    before, replays, and passes computed plainly because none was recorded for their shapes."""

    recorded: int = 0
    rerecorded: int = 0
    replays: int = 0
    plain: int = 0


class GraphPool:
    """Of one model on one device. Thread-safe."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._lock = threading.Lock()
        # Memory goes with its last recording; a new one then begins anew.
        self._living: weakref.WeakSet[Recording] = weakref.WeakSet()
        self._last: tuple[Lane, Mark] | None = None
        self._recorded = self._rerecorded = self._replays = self._plain = 0

    def record(
        self, compute: Callable[[], Sequence[torch.Tensor]], *, again: bool = False
    ) -> Recording:
        """Records what `compute` does, which had been recorded before where it is `again`.

        One loader's. Raises CannotRecord.
        """
        recording = self.device.record(compute, next(iter(self._living), None))
        self._living.add(recording)
        with self._lock:
            self._recorded += 1
            self._rerecorded += again
        return recording

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Around a replay and the copies of what it computed: the memory is this lane's."""
        with self._lock:
            lane = self.device.current()
            if self._last is not None and self._last[0] != lane:
                lane.follow(self._last[1])
            try:
                yield
                self._replays += 1
            finally:
                self._last = lane, lane.mark()

    def on_plain(self) -> None:
        """A pass was computed without a recording."""
        with self._lock:
            self._plain += 1

    def counts(self) -> GraphCounts:
        """What became of them."""
        with self._lock:
            return GraphCounts(self._recorded, self._rerecorded, self._replays, self._plain)
