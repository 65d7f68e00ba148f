"""Ctrl-C: as an exception whose exit code is ours, and not where something would be forgotten."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM came.

    A class of its own: of a plain KeyboardInterrupt that passes through exec or eval of a text, as
    dataclasses and torch.export do it, CPython remembers that it was not handled, and the process
    dies of SIGINT in the end whatever code it exits with.
    """


def raise_on_interrupt() -> None:
    """From now on SIGINT and SIGTERM raise Interrupted in the main thread, which must call this.

    Also where a shell started us in the background, with SIGINT ignored.
    """
    for interrupt in INTERRUPTS:
        signal.signal(interrupt, _raise)


def _raise(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted


@contextmanager
def held_interrupts() -> Iterator[None]:
    """SIGINT and SIGTERM reach their handlers after the block instead of inside it.

    Not by a mask: a process that the block starts would inherit it and ignore both.
    """
    # Python runs handlers in the main thread alone: no other is interrupted.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hold = _Hold()
    try:
        hold.install()
        yield
    finally:
        hold.release()


class _Hold:
    """Stands in for the handlers of both signals.

    Between installing it for one and for the other, and between taking it back, a handler may
    raise and leave the rest undone. So it holds only while `_holding`, which is set in one step,
    and passes everything on at any other time.
    """

    def __init__(self) -> None:
        self._handlers = {interrupt: signal.getsignal(interrupt) for interrupt in INTERRUPTS}
        self._held: list[int] = []
        self._holding = False

    def install(self) -> None:
        for interrupt in INTERRUPTS:
            signal.signal(interrupt, self._on_signal)
        self._holding = True

    def release(self) -> None:
        self._holding = False
        for interrupt, handler in self._handlers.items():
            signal.signal(interrupt, handler)
        for number in self._held:
            signal.raise_signal(number)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._holding:
            self._held.append(number)
            return
        signal.signal(number, self._handlers[signal.Signals(number)])
        signal.raise_signal(number)
