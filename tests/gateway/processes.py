"""Real processes for tests: started with a free port, told apart by their `serving` line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


class Running:
    """A process that serves; `serving` is what its first line of that name said."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"HEADRACE_PROCESS_LOG_FORMAT": "json"},
            text=True,
        )
        self.serving = self._wait_serving()
        self._drain = threading.Thread(target=self._read_rest, daemon=True)
        self._drain.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.serving['port']}"

    @property
    def port(self) -> int:
        return self.serving["port"]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def stop(self) -> int:
        """SIGTERM, and SIGCONT in case it is stopped; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait(5)
        self._drain.join(5)
        self.process.stderr.close()
        return code

    def events(self, name: str) -> list[dict[str, Any]]:
        parsed = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [event for event in parsed if event["event"] == name]

    def _wait_serving(self) -> dict[str, Any]:
        for line in self.process.stderr:
            self.lines.append(line)
            if '"serving"' in line:
                return json.loads(line)
        self.process.wait()
        raise AssertionError("the process ended: " + "".join(self.lines))

    def _read_rest(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line)
