"""Real services as real processes, for the system tests.

A `Service` is one process that announces its port on standard error; it can be killed -9 and
started again on the same port. A `Stack` is a gateway over replicas over one model store.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from chassis.errors import HeadraceError

START_WITHIN_S = 60.0


@dataclass
class Service:
    """One process of one of our packages."""

    package: str
    settings: dict[str, object]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    serving: dict[str, int] = field(default_factory=dict)
    log_offset: int = 0
    terminated: bool = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.settings['port']}"

    def start(self) -> Service:
        """Starts it and waits until it has announced its port, which it keeps from then on."""
        return self.launch().announced()

    def launch(self) -> Service:
        """Starts it without waiting."""
        pairs = [
            part for key, value in self.settings.items() for part in ("--set", f"{key}={value}")
        ]
        self.terminated = False
        self.log_offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.package, *pairs],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1", "HEADRACE_PROCESS_LOG_FORMAT": "json"},
            )
        return self

    def announced(self) -> Service:
        """Waits until a launched one has announced its port."""
        self.serving = self._announcement()
        self.settings["port"] = self.serving["port"]
        return self

    def _announcement(self) -> dict[str, int]:
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline:
            for line in self.log.read_text()[self.log_offset :].splitlines():
                if line.startswith("{") and json.loads(line).get("event") == "serving":
                    return json.loads(line)
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"{self.package} did not serve:\n{self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """SIGKILL, and the end of the process."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """SIGTERM once, without waiting; a second one would end the process without a drain."""
        if self.process is not None and self.process.poll() is None and not self.terminated:
            self.terminated = True
            self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.process is None:
            return 0
        self.terminate()
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"{self.package} did not stop:\n{self.log.read_text()[-3000:]}"
            ) from None


@dataclass
class Stack:
    """A gateway, its replicas and the store they follow."""

    directory: Path
    store: str
    models: str
    # Settings of every replica beyond those that `start` gives.
    replica_settings: dict[str, object] = field(default_factory=dict)
    # What one of them has instead, by its index.
    own_settings: dict[int, dict[str, object]] = field(default_factory=dict)
    replicas: list[Service] = field(default_factory=list)
    gateway: Service | None = None

    def start(self, replicas: int = 2, **gateway: object) -> Stack:
        """Starts the replicas, then the gateway over them; none needs to be ready yet."""
        for index in range(replicas):
            settings = {
                "port": 0,
                "store": self.store,
                "models": self.models,
                "threads": 1,
                **self.replica_settings,
                **self.own_settings.get(index, {}),
            }
            log = self.directory / f"replica-{index}.log"
            self.replicas.append(Service("inference_service", settings, log).launch())
        for replica in self.replicas:
            replica.announced()
        endpoints = ",".join(replica.address for replica in self.replicas)
        settings = {
            "port": 0,
            "http_port": -1,
            "metrics_port": 0,
            "admin_port": 0,
            "endpoints": endpoints,
            **gateway,
        }
        self.gateway = Service("gateway", settings, self.directory / "gateway.log").start()
        # A restarted gateway keeps its ports.
        settings["admin_port"] = self.gateway.serving["admin_port"]
        return self

    def stop(self) -> list[int]:
        """Stops everything along the data path; returns the exit codes."""
        codes = [self.gateway.stop()] if self.gateway else []
        for replica in self.replicas:
            replica.terminate()
        return codes + [replica.stop() for replica in self.replicas]


def wait_until(condition, *, within_s: float, what: str) -> None:
    """Polls until `condition()` is true; a failed call counts as false."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (grpc.RpcError, HeadraceError):
            pass
        time.sleep(0.02)
    raise AssertionError(f"not within {within_s} s: {what}")
