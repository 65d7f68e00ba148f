"""A CUDA device: lanes are streams, marks are events, recordings are CUDA graphs.

The only file that speaks to CUDA's own interfaces. torch's streams do not wait for its default one
nor for each other, so every order between lanes is one that somebody asked for by a mark.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from inference_service.device.device import CannotRecord, Device, Lane, Mark, Recording

# Streams of the higher priority (the lower number) get free multiprocessors first.
_FIRST, _LATER = -1, 0
# torch records one graph at a time in a process.
_RECORDING = threading.Lock()


class CudaLane(Lane):
    """One stream."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    def entered(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._stream)

    def mark(self) -> Mark:
        event = torch.cuda.Event()
        event.record(self._stream)
        return event

    def follow(self, mark: Mark) -> None:
        self._stream.wait_event(mark)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CudaLane) and other._stream == self._stream

    def __hash__(self) -> int:
        return hash(self._stream)


class CudaDevice(Device):
    """`device` is "cuda:N"."""

    apart = True
    records = True

    def __init__(self, device: torch.device) -> None:
        self.torch_device = torch.device("cuda", device.index or 0)
        self.inference = CudaLane(torch.cuda.Stream(self.torch_device, priority=_FIRST))
        # Nothing is ever computed in it: a graph bakes in the work space that cuBLAS keeps for a
        # stream, and must not share that with passes which run beside a replay. Of the first
        # priority, for torch hands out the same 32 streams of each again and again.
        self._recording = torch.cuda.Stream(self.torch_device, priority=_FIRST)

    def lane(self) -> Lane:
        """A stream of the lower priority."""
        return CudaLane(torch.cuda.Stream(self.torch_device, priority=_LATER))

    def current(self) -> Lane:
        """torch's current stream of this thread."""
        return CudaLane(torch.cuda.current_stream(self.torch_device))

    def wait(self, mark: Mark) -> None:
        """Blocks without Python's lock."""
        mark.synchronize()

    def host_memory(self, size: int) -> torch.Tensor:
        """Pinned."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """By the copy engine, since one side is pinned."""
        target.copy_(source, non_blocking=True)

    def record(
        self, compute: Callable[[], Sequence[torch.Tensor]], beside: Recording | None
    ) -> Recording:
        """A graph. Not by `torch.cuda.graph`, which waits for the whole device, collects garbage
        and empties torch's cache while other models answer."""
        graph = torch.cuda.CUDAGraph()
        pool = torch.cuda.graph_pool_handle() if beside is None else beside.memory.pool()
        with _RECORDING, torch.cuda.stream(self._recording):
            try:
                outputs = _captured(graph, pool, compute)
            except CannotRecord:
                self._settle_generator()
                raise
        return Recording(graph.replay, outputs, graph)

    def _settle_generator(self) -> None:
        """torch's generator takes itself for recorded until a recording ends well: without one no
        model on the device could draw a number any more."""
        graph = torch.cuda.CUDAGraph()
        with contextlib.suppress(CannotRecord):
            _captured(
                graph,
                torch.cuda.graph_pool_handle(),
                lambda: [torch.zeros(1, device=self.torch_device)],
            )


def _captured(
    graph: torch.cuda.CUDAGraph, pool: Any, compute: Callable[[], Sequence[torch.Tensor]]
) -> Sequence[torch.Tensor]:
    """What `compute` returns, recorded in the current stream."""
    try:
        # Other threads go on to allocate and to wait: only this one's doing ends the recording.
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            outputs = compute()
        except BaseException:
            # The stream must not stay in recording; what went wrong is known already.
            with contextlib.suppress(RuntimeError):
                graph.capture_end()
            raise
        graph.capture_end()
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise CannotRecord(f"{type(error).__name__}: {first}") from error
    return outputs
