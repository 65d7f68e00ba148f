"""Copies and digests of a load, in parts, so that batches beside it do not get slower.

How fast is decided in `policy.staging_rate`; here is its clock, its lock and the waiting. A part is
a millisecond's work, short beside a batch, long beside the wait for the interpreter that follows it
where batches keep that busy.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from inference_service.buffers import view_of
from inference_service.policy.staging_rate import StagingRate, StagingSnapshot
from model_store.blobs import PART_BYTES
from model_store.digests import digest, digest_in_parts

# Until it asks again.
LONGEST_S = 0.25


class Staging:
    """As fast as it goes."""

    def give_way(self) -> None:
        """The calling thread loads, from now on until its end."""

    @contextmanager
    def during(self) -> Iterator[None]:
        """Around a load."""
        yield

    def on_batch(self, seconds: float) -> None:
        """A batch took `seconds`."""

    def wait(self, size: int) -> None:
        """Returns once `size` bytes may be read, copied or hashed."""

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copies to a tensor of the same shape, of any device and datatype."""
        target.copy_(source)

    def alone(self) -> bool:
        """Whether nobody is held up, so that every core may be used."""
        return True

    def digest(self, view: memoryview) -> str:
        """The digest of the bytes."""
        return digest(view)

    def digest_of(self, tensor: torch.Tensor) -> str:
        """The digest of the tensor's bytes, wherever it lies."""
        return self.digest(view_of(tensor))

    def snapshot(self) -> StagingSnapshot:
        """The numbers, all zero where nothing is paced."""
        return StagingSnapshot(0.0, 0.0, 0.0, 0)


AT_ONCE = Staging()


class Paced(Staging):
    """As fast as `rate` lets it, in threads whose priority is `nice` lower than that of those that
    answer. Thread-safe."""

    def __init__(self, rate: StagingRate, *, nice: int = 0) -> None:
        self._rate = rate
        self._nice = nice
        self._lock = threading.Lock()

    def give_way(self) -> None:
        """The calling thread gets a core after those that answer, where there are too few.

        Only Linux knows priorities of single threads.
        """
        if self._nice and sys.platform == "linux":
            thread = threading.get_native_id()
            os.setpriority(
                os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + self._nice
            )

    @contextmanager
    def during(self) -> Iterator[None]:
        """Around a load; without it nothing is told apart."""
        with self._lock:
            self._rate.on_begin(now=time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                self._rate.on_end(now=time.monotonic())

    def on_batch(self, seconds: float) -> None:
        """A batch took `seconds`."""
        with self._lock:
            self._rate.on_batch(seconds, now=time.monotonic())

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copies in parts where both lie densely, else as one part."""
        size = target.numel() * target.element_size()
        if self._alone():
            target.copy_(source)
            return
        if size <= PART_BYTES or not (source.is_contiguous() and target.is_contiguous()):
            self.wait(size)
            target.copy_(source)
            return
        count = PART_BYTES // target.element_size()
        parts = zip(source.view(-1).split(count), target.view(-1).split(count), strict=True)
        for source_part, target_part in parts:
            self.wait(target_part.numel() * target_part.element_size())
            target_part.copy_(source_part)

    def digest(self, view: memoryview) -> str:
        """The digest of the bytes, computed in parts where batches run beside it."""
        if self._alone():
            # On every core.
            return digest(view)
        return digest_in_parts(view, PART_BYTES, self.wait)

    def snapshot(self) -> StagingSnapshot:
        """The numbers."""
        with self._lock:
            return self._rate.snapshot()

    def alone(self) -> bool:
        """Whether no batch was answered lately."""
        return self._alone()

    def _alone(self) -> bool:
        with self._lock:
            return self._rate.alone(now=time.monotonic())

    def wait(self, size: int) -> None:
        """Returns once `size` bytes may be read, copied or hashed."""
        while True:
            with self._lock:
                now = time.monotonic()
                if self._rate.take(size, now=now):
                    return
                wakeup = self._rate.next_wakeup()
            # No longer: meanwhile the batches may end.
            time.sleep(0.0 if wakeup is None else min(LONGEST_S, max(0.0, wakeup - now)))
