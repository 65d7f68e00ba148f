"""What the service, or an operator's SIGTERM, asks of a running job.

Lines on a pipe: "finish" (checkpoint, then end) and "publish". The pipe's end means that the
service is gone, and ends the process at once: an unsupervised job is nobody's.
"""

from __future__ import annotations

import os
import signal
import threading
from enum import StrEnum
from queue import Empty, SimpleQueue


class Command(StrEnum):
    """One line."""

    FINISH = "finish"
    PUBLISH = "publish"


class Commands:
    """The commands that have come; in tests it is fed by `put`."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Command] = SimpleQueue()

    def put(self, command: Command) -> None:
        """Adds a command; safe in a signal handler."""
        self._queue.put(command)

    def next(self, timeout_s: float) -> Command | None:
        """Waits up to `timeout_s` for a command."""
        try:
            return self._queue.get(block=timeout_s > 0, timeout=max(timeout_s, 0.0))
        except Empty:
            return None

    def listen(self, descriptor: int) -> None:
        """Reads lines from a pipe, in a thread that lives as long as the process."""
        threading.Thread(target=self._read, args=(descriptor,), daemon=True).start()

    def finish_on_sigterm(self) -> None:
        """SIGTERM asks to finish. Call it in the main thread."""
        signal.signal(signal.SIGTERM, lambda _number, _frame: self.put(Command.FINISH))

    def _read(self, descriptor: int) -> None:
        rest = b""
        while content := os.read(descriptor, 4096):
            *lines, rest = (rest + content).split(b"\n")
            for line in lines:
                if line.decode(errors="replace") in Command.__members__.values():
                    self.put(Command(line.decode()))
        os._exit(1)
