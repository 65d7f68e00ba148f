"""A process that gives orders to writers; see `tests.model_store.writer`."""

from __future__ import annotations

import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.model_store.writer import Order

ROOT = Path(__file__).parents[2]


class WriterProcess:
    """One writer at a time: `start`, then `ended` until it is, or `exit_code` to wait for it."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.model_store.writer"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The end of its input ends it, after the writer it waits for.
        self._process.communicate(timeout=60)

    def start(self, order: Order) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(order.line())
        self._process.stdin.flush()

    def ended(self) -> bool:
        """Whether the exit code is there to be read."""
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def exit_code(self) -> int:
        """Waits for the writer; negative where a signal ended it."""
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def run(self, order: Order) -> int:
        """Starts a writer and waits for it."""
        self.start(order)
        return self.exit_code()
