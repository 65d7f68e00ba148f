"""Replicas that sleep, and a gateway in front of them: ours or a baseline's.

The times are long on purpose: all processes, the load included, share a few cores, and what is
measured is decisions, not how fast Python handles messages.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.capacity import Capacity
from benchmarks.stack import Service
from headrace.client import Client
from headrace.model import Model, load_model
from headrace.publisher import Publisher

MODEL = "sleeper"
SLOW, SLOW_CHANNEL = 10.0, "slow"
MILLISECONDS = 1000
READY_WITHIN_S = 60.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Plant:
    """Replicas, milliseconds of a batch as such and per row, its bound, the objective."""

    replicas: int = 4
    alpha_ms: float = 200.0
    beta_ms: float = 25.0
    most_rows: int = 16
    objective_ms: float = 1400.0

    @property
    def capacity(self) -> float:
        """Rows a second: N * b* / l(b*)."""
        most = Capacity(
            self.replicas, self.alpha_ms, self.beta_ms, self.most_rows, self.objective_ms
        )
        return most.rate * MILLISECONDS


POLICIES: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "headrace": ("gateway", {"max_inflight_batches": 2}),
    "batch-while-busy, expired dropped": (
        "benchmarks.scheduling.baseline",
        {"max_inflight_batches": 1},
    ),
    "timer, first in first out": (
        "benchmarks.scheduling.baseline",
        # A quarter of alpha, as 5 ms are of 20; without an objective nothing is dropped.
        {"max_inflight_batches": 2, "max_queue_delay_ms": 50, "latency_objective_ms": ""},
    ),
}


class Running:
    """The processes of one measurement."""

    def __init__(self, directory: Path, plant: Plant, *, slow: bool) -> None:
        self._plant = plant
        self._directory = directory
        self._store = f"file://{directory}/store"
        self.publish(1.0)
        if slow:
            self.publish(SLOW, channel=SLOW_CHANNEL)
        self.replicas = [
            self._replica(at, f"@{SLOW_CHANNEL}" if slow and not at else "")
            for at in range(plant.replicas)
        ]
        self.gateway: Service | None = None

    def publish(self, factor: float, *, channel: str = "stable") -> None:
        """A version whose batches take `factor` times as long."""
        made: Any = type(load_model("examples.sleeper:Sleeper"))
        model: Model = made(factor * self._plant.alpha_ms, factor * self._plant.beta_ms)
        with Publisher(self._store, model=model, channel=channel) as publisher:
            publisher.publish(model.build())

    def start(self, policy: str) -> None:
        """Starts the replicas and the gateway; returns when it serves."""
        for replica in self.replicas:
            replica.start()
        for replica in self.replicas:
            replica.wait_until_serving()
        self.restart(policy)

    def restart(self, policy: str) -> None:
        """Another gateway, which knows nothing yet, in front of the same replicas."""
        if self.gateway is not None:
            self.gateway.stop()
        package, changes = POLICIES[policy]
        settings: dict[str, object] = {
            "port": 0,
            "http_port": -1,
            "admin_port": 0,
            "metrics_port": -1,
            "max_batch_size": self._plant.most_rows,
            "latency_objective_ms": self._plant.objective_ms,
            "endpoints": ",".join(replica.address() for replica in self.replicas),
            # Health checks would hide what the scheduling does about a stopped replica.
            "health_timeout_s": 10,
            "drain_notice_s": 0,
            **changes,
        }
        settings = {key: value for key, value in settings.items() if value != ""}
        name = package.rpartition(".")[2]
        log = self._directory / f"{name}.log"
        self.gateway = Service(package, settings, log, threads=1)
        self.gateway.start()
        self.gateway.wait_until_serving()
        self._wait_ready()

    def signal(self, at: int, number: signal.Signals) -> None:
        """To one replica."""
        os.kill(self.replicas[at].pid, number)

    def stop(self) -> None:
        """Stops every process, those that were stopped by a signal too."""
        for service in filter(None, [self.gateway, *self.replicas]):
            service.stop()

    def _wait_ready(self) -> None:
        assert self.gateway is not None
        deadline = time.monotonic() + READY_WITHIN_S
        with Client(self.gateway.address()) as client:
            while not client.ready(MODEL):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{MODEL} was not ready within {READY_WITHIN_S:.0f} s")
                time.sleep(POLL_S)

    def _replica(self, at: int, channel: str) -> Service:
        settings = {
            "port": 0,
            "store": self._store,
            "models": MODEL + channel,
            "allow_import_path": "true",
            "drain_notice_s": 0,
        }
        log = self._directory / f"replica-{at}.log"
        return Service("inference_service", settings, log, threads=1)


@contextmanager
def running(plant: Plant, policy: str, *, slow: bool = False) -> Iterator[Running]:
    """A plant that serves."""
    with tempfile.TemporaryDirectory(prefix="headrace-scheduling-") as name:
        made = Running(Path(name), plant, slow=slow)
        try:
            made.start(policy)
            yield made
        finally:
            made.stop()
