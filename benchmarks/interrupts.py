"""Ctrl-C at a moment when something started would be forgotten."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_interrupts() -> Iterator[None]:
    """SIGINT and SIGTERM reach their handlers after the block instead of inside it.

    Not by a mask: a process that the block starts would inherit it and ignore both.
    """
    # Python runs handlers in the main thread alone: no other is interrupted.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    handlers = {interrupt: signal.signal(interrupt, hold) for interrupt in INTERRUPTS}
    try:
        yield
    finally:
        for interrupt, handler in handlers.items():
            signal.signal(interrupt, handler)
        for number in held:
            signal.raise_signal(number)
