"""Publishers, clients and the sampler as processes forked from one that has imported all of it.

A publisher that starts from nothing needs seconds; one that is forked publishes after
milliseconds, so that a scenario can kill one at each of a dozen steps.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from chassis.settings import ProcessSettings, child_environment
from chassis.telemetry import configure_logs

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["benchmarks.chaos.preloaded"])
STOP_WITHIN_S = 30.0


class Child:
    """A process that runs `work(done, *arguments)` until it is told to end by `done`."""

    def __init__(self, name: str, log: Path, work: Callable[..., None], *arguments: Any) -> None:
        self.name = name
        self._done: Event = _CONTEXT.Event()
        self._process = _CONTEXT.Process(
            target=_run,
            args=(name, log, child_environment(), work, self._done, *arguments),
            name=name,
            daemon=True,
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def wait_ended(self, within_s: float) -> int | None:
        """The exit code, negative for a signal; None where it runs on."""
        self._process.join(within_s)
        return self._process.exitcode

    def signal(self, number: signal.Signals) -> None:
        """Sends the signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and the end of the process."""
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        """Tells it to end, then SIGKILL."""
        if not self.running:
            # One that was killed while it waited for the event would be waited for by `set`.
            return
        self._done.set()
        self.signal(signal.SIGCONT)
        if self.wait_ended(STOP_WITHIN_S) is None:
            self.kill()


def _run(
    name: str, log: Path, environment: dict[str, str], work: Callable[..., None], *arguments: Any
) -> None:
    # Not that of the process it is forked from, which started before the store had credentials.
    os.environ |= environment
    # Ctrl-C is for whoever started us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    configure_logs(name, ProcessSettings.load(overrides={"log_format": "json"}))
    work(*arguments)
