"""An alarm with the precision of microseconds; event loops sleep in whole milliseconds.

A load of 1,000 requests a second would be late by half a millisecond on average, which would be
measured as the server's. Linux has timers that are file descriptors; elsewhere the loop's sleep
has to do.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time

CLOCK_MONOTONIC = 1
TIMER_ABSOLUTE = 1
NANOSECONDS = 1_000_000_000


class _Span(ctypes.Structure):
    """struct timespec."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    """struct itimerspec: once, at `first`."""

    _fields_ = (("interval", _Span), ("first", _Span))


class Alarm:
    """Wakes its one waiter at a moment of `time.monotonic()`, or when it is rung."""

    def __init__(self) -> None:
        """Of the running event loop. Raises OSError where the system has no timer left."""
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._rung = False
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        self._file = -1
        if self._libc is not None:
            flags = os.O_NONBLOCK | os.O_CLOEXEC
            self._file = self._libc.timerfd_create(CLOCK_MONOTONIC, flags)
            if self._file < 0:
                raise OSError(ctypes.get_errno(), "no timer")
            self._loop.add_reader(self._file, self._expired)

    async def wait_until(self, moment: float) -> None:
        """Returns at `moment`, at once if it is past or the alarm was rung."""
        if self._rung or moment <= time.monotonic():
            return
        self._waiter = self._loop.create_future()
        if self._file < 0:
            self._loop.call_at(self._loop.time() + moment - time.monotonic(), self._wake)
        else:
            self._set(moment)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def ring(self) -> None:
        """Ends the wait, and every later one."""
        self._rung = True
        self._wake()

    def close(self) -> None:
        """Gives the timer back."""
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _set(self, moment: float) -> None:
        assert self._libc is not None
        seconds, nanoseconds = divmod(int(moment * NANOSECONDS), NANOSECONDS)
        setting = _Setting(_Span(0, 0), _Span(seconds, nanoseconds))
        self._libc.timerfd_settime(self._file, TIMER_ABSOLUTE, ctypes.byref(setting), None)

    def _expired(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:
            # Set anew between its expiry and this call.
            return
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
