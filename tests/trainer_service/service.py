"""A trainer service as a real process, and its gRPC stub."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from chassis.connections import open_channel
from chassis.edge import Stub
from protos.headrace.v1 import trainer_pb2 as pb

WITHIN_S = 120.0


class TrainerService:
    """`start` returns once it serves, on the same port after a kill."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.state_dir = folder / "state"
        self.log = folder / "trainer.log"
        self.environment = environment
        self.settings: dict[str, object] = {}
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> TrainerService:
        settings = {"port": self.port, "state_dir": self.state_dir, "threads": 1} | self.settings
        pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trainer_service", *pairs],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ
                | {"HEADRACE_PROCESS_LOG_FORMAT": "json", "HEADRACE_CONFIG": ""}
                | self.environment
                | environment,
            )
        wait_until(lambda: "port" in self.announced(), what="the service serves")
        self.port = self.announced()["port"]
        self.channel = open_channel(f"127.0.0.1:{self.port}")
        self.stub = Stub(self.channel, "headrace.v1.Trainer")
        return self

    def announced(self) -> dict[str, int]:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        for line in self.log.read_text().splitlines():
            if line.startswith("{") and json.loads(line).get("event") == "serving":
                return json.loads(line)
        return {}

    def run(self, run_id: str) -> pb.Run:
        return self.stub.GetRun(pb.GetRunRequest(run_id=run_id), timeout=WITHIN_S).run

    def until(self, run_id: str, holds: Callable[[pb.Run], bool]) -> pb.Run:
        """The run once `holds`, as a watcher sees it; an AssertionError if it ends before."""
        watch = self.stub.WatchRun(pb.WatchRunRequest(run_id=run_id), timeout=WITHIN_S)
        run = None
        for change in watch:
            run = change.run
            if holds(run):
                watch.cancel()
                return run
        raise AssertionError(f"run {run_id} ended: {run}\n{self.job_log(run_id)}")

    def job_log(self, run_id: str) -> str:
        path = self.state_dir / "runs" / run_id / "job.log"
        return path.read_text()[-3000:] if path.exists() else ""

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.channel.close()

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.channel.close()
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(WITHIN_S)
        return self.process.returncode


def wait_until(holds: Callable[[], object], *, what: str, within_s: float = WITHIN_S) -> None:
    give_up_at = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < give_up_at, f"not within {within_s} s: {what}"
        time.sleep(0.02)


def job_processes(state_dir: Path) -> list[int]:
    """Agents and workers of every job below `state_dir`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                # A process that has ended and waits for its parent has no command line.
            except OSError:
                continue
            if b"trainer_service.job" in command and str(state_dir).encode() in command:
                found.append(int(entry.name))
    return found


def listening_beyond_loopback(pids: list[int]) -> list[str]:
    """Hexadecimal addresses on which these processes listen, less those of loopback."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                inodes.add(descriptor.readlink().name.removeprefix("socket:[").removesuffix("]"))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.append(fields[1].partition(":")[0])
    loopback = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
    return [address for address in found if address not in loopback]
