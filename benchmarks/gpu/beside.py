"""Batches without pause on a device, alone and beside loads that follow each other.

The loader, the slots and the engine are the replica's; its thread of batches is this process's
first, without servers, so that what is timed is the device and the two sides of it. Each answer is
compared with what the version that it names gives.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
import torch

from benchmarks.swap.ballast import Ballast, Weights, fill, layer_of, rows
from headrace import Publisher
from inference_service.architecture import Architecture, Choice
from inference_service.device.device import Device
from inference_service.device.graph_pool import GraphCounts
from inference_service.leases import Leases
from inference_service.loader import Loader
from inference_service.policy.staging_rate import StagingRate
from inference_service.served import Directive, ServedModel
from inference_service.settings import Followed
from inference_service.staging import AT_ONCE, Paced
from model_store import Store, open_store

MIB = 1024 * 1024
# Of which never two in a row are in the slots: each is a load.
VERSIONS = 4
ROWS = 5
FLOOR = 32 * MIB
# A load that takes longer is not coming any more.
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Batch:
    """When it began, what it took, and the version that answered; `flipped` is the first of one."""

    began_at: float
    span_s: float
    version: int
    flipped: bool


@dataclass(frozen=True, slots=True)
class Beside:
    """One way to load, milliseconds. The stall at a flip is what its first batch took above the
    calm median."""

    graphs: bool
    paced: bool
    calm_p50_ms: float
    calm_p99_ms: float
    beside_p99_ms: float
    stall_p50_ms: float
    stall_worst_ms: float
    loads: int
    load_ms: float
    wrong: int
    counts: GraphCounts
    why_no_graphs: str


@contextmanager
def published(mib: int) -> Iterator[tuple[Store, Ballast]]:
    """A store with `VERSIONS` versions, of which number n is made of seed n."""
    model = Ballast(mib)
    module = Weights(mib).eval()
    with open_store(f"memory://gpu-{uuid4().hex}") as store:
        with Publisher(store, model=model, deltas="off") as publisher:
            for seed in range(1, VERSIONS + 1):
                publisher.publish(fill(module, seed), step=seed)
        yield store, model


def measured(
    device: Device,
    store: Store,
    model: Ballast,
    *,
    graphs: bool,
    paced: bool,
    loads: int,
    calm_s: float,
) -> Beside:
    """Batches for `calm_s`, then until `loads` loads have ended."""
    bench = _Bench(device, store, model, graphs=graphs, paced=paced)
    try:
        return bench.run(loads, calm_s)
    finally:
        bench.close()


class _Bench:
    def __init__(
        self, device: Device, store: Store, model: Ballast, *, graphs: bool, paced: bool
    ) -> None:
        self._device = device
        self._graphs, self._paced = graphs, paced
        self._staging = Paced(StagingRate(floor=FLOOR)) if paced else AT_ONCE
        architecture = Architecture(
            store,
            device.torch_device,
            allow_import_path=False,
            staging=self._staging,
            lanes=device,
        )
        self._served = ServedModel(Followed(model.name, "stable"), lambda: None)
        self._loader = Loader(
            store,
            store,
            self._served,
            architecture,
            Leases(store, self._served, ttl_s=0),
            staging_bytes=2 * model.mib * MIB,
            choice=Choice(cuda_graphs=graphs),
        )
        self._x = rows(ROWS, 0)
        self._wanted = 0
        self._last = 0
        self.wrong = 0
        self._load_ms: list[float] = []

    def run(self, loads: int, calm_s: float) -> Beside:
        self._loader.start()
        self._ask_for(1)
        while not self._served.ready:
            self._refuse_failure()
            time.sleep(0.01)
        self._batches(lambda at: at > calm_s / 4)
        calm = self._batches(lambda at: at > calm_s)
        beside = self._batches(lambda _: self._loaded(loads))
        counts = self._served.snapshot().engine.graphs
        p50 = statistics.median(batch.span_s for batch in calm)
        stalls = [(batch.span_s - p50) * 1e3 for batch in beside if batch.flipped]
        return Beside(
            self._graphs,
            self._paced,
            p50 * 1e3,
            _p99(calm) * 1e3,
            _p99(beside) * 1e3,
            statistics.median(stalls),
            max(stalls),
            loads,
            statistics.median(self._load_ms),
            self.wrong,
            counts.counts if counts is not None else GraphCounts(),
            counts.why_not if counts is not None else "",
        )

    def close(self) -> None:
        self._served.stop()
        self._loader.join(PATIENCE_S)
        self._served.slots.clear()

    def _batches(self, over: Callable[[float], bool]) -> list[Batch]:
        """Batches until `over`, which is told the seconds since the first."""
        found: list[Batch] = []
        first = time.perf_counter()
        with self._device.inference.entered(), torch.inference_mode():
            while not over(time.perf_counter() - first):
                found.append(self._batch())
                self._staging.on_batch(found[-1].span_s)
        return found

    def _batch(self) -> Batch:
        began = time.perf_counter()
        slot = self._served.slots.pin()
        assert slot is not None and slot.instance is not None
        instance = slot.instance
        instance.handover.before_use()
        x = torch.from_numpy(self._x).to(self._device.torch_device)
        (y,) = instance.run([x])
        assert isinstance(y, torch.Tensor)
        found = y.cpu().numpy()
        instance.handover.after_use()
        version = slot.version
        self._served.slots.release(slot)
        span = time.perf_counter() - began
        if not np.array_equal(found, self._x @ layer_of(version).T):
            self.wrong += 1
        flipped, self._last = version != self._last, version
        return Batch(began, span, version, flipped)

    def _loaded(self, loads: int) -> bool:
        """Whether so many have ended; asks for the next where one has."""
        serving = self._served.slots.serving
        if serving is None or serving.version != self._wanted:
            self._refuse_failure()
            return False
        snapshot = self._served.snapshot()
        if snapshot.load_step:
            return False
        if snapshot.swaps > 1:
            self._load_ms.append(snapshot.last_load_ms)
        if snapshot.swaps > loads:
            return True
        self._ask_for(self._wanted % VERSIONS + 1)
        return False

    def _ask_for(self, version: int) -> None:
        self._wanted = version
        self._served.direct(Directive("stable", version), None)

    def _refuse_failure(self) -> None:
        failure = self._served.progress().failure
        if failure is not None:
            raise RuntimeError(f"version {failure.version}: {failure.reason}: {failure.message}")


def _p99(batches: list[Batch]) -> float:
    ordered = sorted(batch.span_s for batch in batches)
    return ordered[(len(ordered) - 1) * 99 // 100]
