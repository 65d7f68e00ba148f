"""A store, replicas and a gateway as real processes, for the length of one measurement."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from benchmarks.bare import inputs_of
from benchmarks.interrupts import held_interrupts
from chassis.settings import child_environment
from headrace.client import Client
from headrace.model import Model
from headrace.publisher import Publisher
from headrace.values import outputs_in_order

HOST = "127.0.0.1"
START_WITHIN_S = 60.0
STOP_WITHIN_S = 30.0
POLL_S = 0.02
# A replica runs the exported program, whose sums may come in another order.
TOLERANCE = 1e-3


class Service:
    """One process of one of our packages, logging into a file of its own."""

    def __init__(
        self, package: str, settings: Mapping[str, object], log: Path, *, threads: int
    ) -> None:
        self.package = package
        self.serving: dict[str, Any] = {}
        self._settings = settings
        self._log = log
        self._threads = str(threads)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process; it serves some seconds later."""
        pairs = [
            part for pair in self._settings.items() for part in ("--set", "{}={}".format(*pair))
        ]
        # An interrupt between the fork and the assignment would leave a process that nobody stops.
        with self._log.open("wb") as output, held_interrupts():
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.package, *pairs],
                cwd=Path(__file__).parents[1],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Its own session: Ctrl-C is for us, and we stop the services in order.
                start_new_session=True,
                env=child_environment(
                    OMP_NUM_THREADS=self._threads, HEADRACE_PROCESS_LOG_FORMAT="json"
                ),
            )

    @property
    def pid(self) -> int:
        """Of the process, which must be started."""
        assert self._process is not None
        return self._process.pid

    def address(self, port: str = "port") -> str:
        """host:port of what the process announced under `port`."""
        return f"{HOST}:{self.serving[port]}"

    def wait_until_serving(self) -> None:
        """Waits for the log line that tells the ports. Raises RuntimeError with the log's end."""
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline and self._running():
            for line in self._log.read_text().splitlines():
                if line.startswith("{") and '"serving"' in line:
                    self.serving = json.loads(line)
                    return
            time.sleep(POLL_S)
        raise RuntimeError(f"{self.package} did not serve:\n{self._log.read_text()[-3000:]}")

    def stop(self) -> None:
        """SIGTERM, then SIGKILL if it will not end."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _running(self) -> bool:
        return self._process is not None and self._process.poll() is None


@dataclass
class Stack:
    """One model, published once and served; a context manager that stops every process."""

    model: Model
    directory: Path
    replicas: int
    threads: int
    # Settings that differ from the defaults, by name.
    gateway_settings: Mapping[str, str] = field(default_factory=dict)
    replica_settings: Mapping[str, str] = field(default_factory=dict)
    # URL of the model store; empty for one in `directory`.
    store: str = ""
    gateway: Service = field(init=False)
    _services: list[Service] = field(default_factory=list)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def replica(self) -> Service:
        """The first replica."""
        return self._services[0]

    @property
    def replica_services(self) -> list[Service]:
        """Of every replica."""
        return [service for service in self._services if service is not self.gateway]

    @property
    def replica_pids(self) -> list[int]:
        """Of every replica."""
        return [service.pid for service in self.replica_services]

    @property
    def samples(self) -> Path:
        """An .npz file of the model's sample rows by input name."""
        return self.directory / "samples.npz"

    def _start(self) -> None:
        samples, _ = self.model.samples()
        np.savez(self.samples, allow_pickle=False, **samples)
        self.store = self.store or f"file://{self.directory / 'store'}"
        settings = {"port": 0, "store": self.store, "models": self.model.name}
        settings |= {"threads": self.threads, **self.replica_settings}
        # First what takes longest; it imports while we export.
        for index in range(self.replicas):
            self._add("inference_service", f"replica-{index}", settings)
        module = self.model.build().eval()
        with Publisher(self.store, model=self.model) as publisher:
            publisher.publish(module, step=1)
        for service in self._services:
            service.wait_until_serving()
        endpoints = ",".join(service.address() for service in self._services)
        settings = {"port": 0, "http_port": -1, "admin_port": 0, "metrics_port": -1}
        settings["endpoints"] = endpoints
        self.gateway = self._add("gateway", "gateway", {**settings, **self.gateway_settings})
        self.gateway.wait_until_serving()
        self._check_answer(module)

    def _add(self, package: str, name: str, settings: Mapping[str, object]) -> Service:
        log = self.directory / f"{name}.log"
        service = Service(package, settings, log, threads=self.threads)
        # Before it runs, so that an interrupt from here on stops it.
        self._services.append(service)
        service.start()
        return service

    def _check_answer(self, module: torch.nn.Module) -> None:
        """Waits until the model is served and its answer is the module's own."""
        inputs = inputs_of(self.model, 1)
        names = [spec.name for spec in self.model.inputs]
        arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        with Client(self.gateway.address()) as client:
            self._wait_until_ready(client)
            answer = client.predict(self.model.name, arrays)
        with torch.inference_mode():
            expected = outputs_in_order(module(*inputs), self.model.signature)
        for spec, tensor in zip(self.model.outputs, expected, strict=True):
            np.testing.assert_allclose(answer[spec.name], tensor, rtol=TOLERANCE, atol=TOLERANCE)

    def _wait_until_ready(self, client: Client) -> None:
        deadline = time.monotonic() + START_WITHIN_S
        while not client.ready(self.model.name):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.model.name} was not ready within {START_WITHIN_S:.0f} s")
            time.sleep(POLL_S)

    def _stop(self) -> None:
        # The gateway came last and goes first: nothing is sent to a replica that drains.
        for service in reversed(self._services):
            service.stop()
