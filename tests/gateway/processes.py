"""Real processes for tests: each on a free port, told apart by its `serving` line.

They are forked from a server process that has imported everything and started nothing, which
spares each of them the second that imports take.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pytest", "gateway.__main__", "tests.gateway.fake_replica"])


def _child(module: str, arguments: tuple[str, ...], log: Connection) -> None:
    os.dup2(log.fileno(), 2)
    os.environ["HEADRACE_PROCESS_LOG_FORMAT"] = "json"
    sys.exit(importlib.import_module(module).main(list(arguments)))


class Running:
    """A process that serves; `serving` is what its line of that name said."""

    def __init__(self, module: str, *arguments: str) -> None:
        reader, writer = _CONTEXT.Pipe(duplex=False)
        self.lines: list[str] = []
        self._process = _CONTEXT.Process(target=_child, args=(module, arguments, writer))
        self._process.start()
        writer.close()
        self._log = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        reader.close()
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
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self.wait()

    def stop(self) -> int:
        """SIGTERM, and SIGCONT in case it is stopped; the exit code."""
        if self._process.is_alive():
            self.send(signal.SIGCONT)
            self._process.terminate()
        return self.wait()

    def wait(self) -> int:
        """The exit code, once it ended."""
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(5)
        self._drain.join(5)
        self._log.close()
        return self._process.exitcode

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log events of that name so far."""
        parsed = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [event for event in parsed if event["event"] == name]

    def _wait_serving(self) -> dict[str, Any]:
        for line in self._log:
            self.lines.append(line)
            if '"serving"' in line:
                return json.loads(line)
        self._process.join(5)
        raise AssertionError("the process ended: " + "".join(self.lines))

    def _read_rest(self) -> None:
        for line in self._log:
            self.lines.append(line)
