"""Bytes of a load into a device's memory and back, through pinned memory that is kept.

Pinning costs more than the copy it speeds up, so a few chunks are pinned once and serve every load
of a model. A chunk is filled by the host, copied by the device meanwhile the next is filled, and
written again only after a mark behind its copy. Back, for the digest of what lies in the slot, it
goes the same way: one chunk is hashed while the next comes. How fast is the inner staging's part.

What is neither contiguous nor copied between host and device goes as the inner staging does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from inference_service.device.device import Device, Mark
from inference_service.policy.staging_rate import StagingSnapshot
from inference_service.staging import Staging
from model_store.digests import digest_of_parts

# Large enough for the bus's full speed, small enough to hold up a batch's input no longer than it
# notices: 4 MiB take some 0.1 ms.
CHUNK_BYTES = 4 * 1024 * 1024
CHUNKS = 4


@dataclass(slots=True)
class Chunk:
    """Pinned memory, and the mark behind the copy that uses it."""

    memory: torch.Tensor
    busy: Mark | None = None


class Chunks:
    """A ring of them; one thread's."""

    def __init__(self, device: Device, *, count: int, size: int) -> None:
        self._device = device
        self._ring = [Chunk(device.host_memory(size)) for _ in range(count)]
        self._next = 0

    def take(self) -> Chunk:
        """The one that was used longest ago, free again."""
        chunk = self._ring[self._next]
        self._next = (self._next + 1) % len(self._ring)
        if chunk.busy is not None:
            self._device.wait(chunk.busy)
            chunk.busy = None
        return chunk


class PinnedStaging(Staging):
    """At the pace of `inner`. One loader's: its methods save `on_batch` and `snapshot` are called
    in one thread, which has entered a lane."""

    def __init__(
        self, inner: Staging, device: Device, *, count: int = CHUNKS, size: int = CHUNK_BYTES
    ) -> None:
        self._inner = inner
        self._device = device
        self._count, self._size = count, size
        # Pinned at the first load, kept ever after.
        self._kept: Chunks | None = None

    def give_way(self) -> None:
        """As the inner one."""
        self._inner.give_way()

    @contextmanager
    def during(self) -> Iterator[None]:
        """As the inner one."""
        with self._inner.during():
            yield

    def on_batch(self, seconds: float) -> None:
        """As the inner one."""
        self._inner.on_batch(seconds)

    def wait(self, size: int) -> None:
        """As the inner one."""
        self._inner.wait(size)

    def alone(self) -> bool:
        """As the inner one."""
        return self._inner.alone()

    def digest(self, view: memoryview) -> str:
        """As the inner one."""
        return self._inner.digest(view)

    def snapshot(self) -> StagingSnapshot:
        """As the inner one."""
        return self._inner.snapshot()

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copies; from the host it returns when the last chunk is asked for, not when it is there.

        The source may change after that: what is copied lies in chunks.
        """
        if not self._by_chunks(source, target):
            self._inner.copy(source, target)
            return
        content, place = _bytes_of(source), _bytes_of(target)
        for at in range(0, content.numel(), self._size):
            part = content[at : at + self._size]
            self._inner.wait(part.numel())
            chunk = self._chunks().take()
            near = chunk.memory[: part.numel()]
            near.copy_(part)
            self._device.copy(near, place[at : at + self._size])
            chunk.busy = self._device.current().mark()

    def digest_of(self, tensor: torch.Tensor) -> str:
        """The digest of what lies in the device's memory, read back."""
        if tensor.device.type != self._device.torch_device.type:
            return self._inner.digest_of(tensor)
        content = _bytes_of(tensor.contiguous())
        return digest_of_parts(self._read(content), wide=self._inner.alone())

    def _read(self, content: torch.Tensor) -> Iterator[memoryview]:
        """The bytes in parts, each good until the next is asked for."""
        asked: list[tuple[Chunk, int]] = []
        for at in range(0, content.numel(), self._size):
            part = content[at : at + self._size]
            self._inner.wait(part.numel())
            chunk = self._chunks().take()
            self._device.copy(part, chunk.memory[: part.numel()])
            chunk.busy = self._device.current().mark()
            asked.append((chunk, part.numel()))
            if len(asked) > 1:
                yield self._arrived(*asked.pop(0))
        while asked:
            yield self._arrived(*asked.pop(0))

    def _arrived(self, chunk: Chunk, size: int) -> memoryview:
        self._device.wait(chunk.busy)
        return chunk.memory[:size].numpy().data

    def _chunks(self) -> Chunks:
        if self._kept is None:
            self._kept = Chunks(self._device, count=self._count, size=self._size)
        return self._kept

    def _by_chunks(self, source: torch.Tensor, target: torch.Tensor) -> bool:
        there = self._device.torch_device.type
        return (
            (source.device.type, target.device.type) == ("cpu", there)
            and source.dtype is target.dtype
            and source.is_contiguous()
            and target.is_contiguous()
        )


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous tensor's memory as UINT8 of one dimension."""
    return tensor.detach().view(-1).view(torch.uint8)
