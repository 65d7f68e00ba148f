"""What is asked of CUDA and in which order, on an interface of our own making.

What it does is for the tests marked `gpu` to see (test_device.py).
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from inference_service.device.device import CannotRecord
from inference_service.device.graph_pool import GraphPool
from inference_service.device.handover import Handover
from inference_service.device.kinds import device_of


class Cuda:
    """Stands for `torch.cuda`; `asked` is what was asked of it, by the names of streams."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.streams: list[str] = []
        self.current = "default"
        self.recording = False
        self.pools = 0

    def stream_of(self, device: torch.device, priority: int = 0) -> SimpleNamespace:
        assert device == torch.device("cuda:1")
        name = f"stream {len(self.streams)} priority {priority}"
        self.streams.append(name)
        return self.named(name)

    def named(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(
            name=name, wait_event=lambda event: self.asked.append(("wait", name, event.at))
        )

    def event(self) -> SimpleNamespace:
        made = SimpleNamespace(at=None)
        made.record = lambda stream: self._recorded(made, stream.name)
        made.synchronize = lambda: self.asked.append(("host waits", made.at))
        return made

    def _recorded(self, event: SimpleNamespace, name: str) -> None:
        event.at = name
        self.asked.append(("event", name))

    @contextlib.contextmanager
    def entered(self, stream: SimpleNamespace):
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before

    def handle(self) -> str:
        self.pools += 1
        return f"pool {self.pools}"

    def graph(self) -> SimpleNamespace:
        made = SimpleNamespace(pool_name="")
        made.capture_begin = lambda pool, capture_error_mode: self._begin(
            made, pool, capture_error_mode
        )
        made.capture_end = self._end
        made.replay = lambda: self.asked.append(("replay", self.current))
        made.pool = lambda: made.pool_name
        return made

    def _begin(self, graph: SimpleNamespace, pool: str, mode: str) -> None:
        assert not self.recording
        graph.pool_name, self.recording = pool, True
        self.asked.append(("begin", self.current, pool, mode))

    def _end(self) -> None:
        assert self.recording
        self.recording = False
        self.asked.append(("end", self.current))


@pytest.fixture
def cuda(monkeypatch) -> Cuda:
    made = Cuda()
    for name, value in {
        "Stream": made.stream_of,
        "Event": made.event,
        "stream": made.entered,
        "current_stream": lambda _device: made.named(made.current),
        "CUDAGraph": made.graph,
        "graph_pool_handle": made.handle,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "zeros", lambda *_sizes, **_how: torch.tensor(0.0))
    return made


BATCHES, RECORDING, LOADS = "stream 0 priority -1", "stream 1 priority -1", "stream 2 priority 0"


def test_a_flip_and_a_refill_wait_for_events_and_the_host_for_none(cuda):
    device = device_of(torch.device("cuda:1"))
    lane, handover = device.lane(), Handover(device)
    with lane.entered():
        handover.after_fill()
    with device.inference.entered():
        handover.before_use()
        handover.after_use()
    with lane.entered():
        handover.before_fill()
    assert cuda.asked == [
        ("event", LOADS),
        ("wait", BATCHES, LOADS),
        ("event", BATCHES),
        ("wait", LOADS, BATCHES),
    ]
    assert cuda.streams == [BATCHES, RECORDING, LOADS]
    with device.inference.entered():
        handover.wait()
    assert cuda.asked[4:] == [("event", BATCHES), ("host waits", BATCHES)]


def test_a_recording_is_made_in_its_own_stream_and_repeated_in_any(cuda):
    device = device_of(torch.device("cuda:1"))
    pool = GraphPool(device)
    recordings = [pool.record(lambda: [torch.ones(1)]) for _ in range(2)]
    assert cuda.asked == [
        ("begin", RECORDING, "pool 1", "thread_local"),
        ("end", RECORDING),
        # The same memory.
        ("begin", RECORDING, "pool 1", "thread_local"),
        ("end", RECORDING),
    ]
    cuda.asked.clear()
    with device.inference.entered(), pool.turn():
        recordings[0].replay()
    assert cuda.asked == [("replay", BATCHES), ("event", BATCHES)]


def test_memory_of_recordings_that_are_gone_is_not_asked_for(cuda):
    pool = GraphPool(device_of(torch.device("cuda:1")))
    for number in (1, 2):
        recording = pool.record(lambda: [torch.ones(1)])
        assert cuda.asked[-2] == ("begin", RECORDING, f"pool {number}", "thread_local")
        del recording


def test_a_pass_that_cannot_be_recorded_leaves_no_stream_in_recording(cuda):
    device = device_of(torch.device("cuda:1"))

    def compute() -> list[torch.Tensor]:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    with pytest.raises(CannotRecord, match=r"^RuntimeError: CUDA error: .* is capturing$"):
        device.record(compute, None)
    assert not cuda.recording
    # And one that succeeds, for the generator's sake.
    assert [entry[0] for entry in cuda.asked] == ["begin", "end", "begin", "end"]
    assert cuda.current == "default"
