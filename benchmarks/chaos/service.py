"""One of our services as a process that is killed, stopped and started again on its port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.interrupts import held_interrupts
from chassis.settings import child_environment

HOST = "127.0.0.1"
# Thirty at once on two cores need a minute.
START_WITHIN_S = 240.0
STOP_WITHIN_S = 30.0
POLL_S = 0.02
ROOT = Path(__file__).parents[2]


class Service:
    """A process of one of our packages; its log, JSON lines, outlives every restart."""

    def __init__(self, package: str, settings: Mapping[str, object], log: Path) -> None:
        self.name = log.stem
        self.log = log
        self.settings = dict(settings)
        self.serving: dict[str, Any] = {}
        self._package = package
        self._offset = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process, which must have been started."""
        assert self._process is not None
        return self._process.pid

    @property
    def address(self) -> str:
        """host:port of what it serves."""
        return f"{HOST}:{self.settings['port']}"

    @property
    def admin(self) -> str:
        """host:port of its admin port."""
        return f"{HOST}:{self.serving['admin_port']}"

    def launch(self, failpoints: str = "") -> None:
        """Starts the process, with failpoints armed; it serves some seconds later."""
        pairs = [
            part for item in self.settings.items() for part in ("--set", "{}={}".format(*item))
        ]
        self._offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output, held_interrupts():
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._package, *pairs],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Its own session: Ctrl-C is for us, and we stop the services in order.
                start_new_session=True,
                env=child_environment(
                    OMP_NUM_THREADS="1",
                    HEADRACE_PROCESS_LOG_FORMAT="json",
                    HEADRACE_FAILPOINTS=failpoints,
                ),
            )

    def wait_until_serving(self) -> None:
        """Waits for the log line that tells the ports. Raises RuntimeError with the log's end."""
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline and self.running:
            for line in self.events():
                if line.get("event") == "serving":
                    self.serving = line
                    self.settings["port"] = line["port"]
                    return
            time.sleep(POLL_S)
        raise RuntimeError(f"{self.name} did not serve:\n{self.log.read_text()[-3000:]}")

    @property
    def running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def events(self) -> Iterator[dict[str, Any]]:
        """The log's lines since the process was last started."""
        with self.log.open("rb") as file:
            file.seek(self._offset)
            for line in file.read().decode(errors="replace").splitlines():
                if line.startswith("{"):
                    yield json.loads(line)

    def signal(self, number: signal.Signals) -> None:
        """Sends the signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and the end of the process."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def wait_ended(self, within_s: float) -> bool:
        """Whether the process ended within that time."""
        assert self._process is not None
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """SIGTERM, then SIGKILL if it will not end."""
        if self._process is None:
            return
        # A stopped process would not see SIGTERM.
        if self.running:
            self.signal(signal.SIGCONT)
        self._process.terminate()
        if not self.wait_ended(STOP_WITHIN_S):
            self.kill()
