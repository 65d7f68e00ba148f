"""CPU time of any process of this machine, user and system, all its threads.

Read from the process's CPU clock, which counts nanoseconds where /proc/PID/stat counts ticks of
10 ms: a point of a few hundred requests would drown in those.
"""

from __future__ import annotations

import ctypes
import os
import time
from functools import cache
from pathlib import Path

_LIBC = ctypes.CDLL(None)


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU that the process has used since it began.

    Raises ProcessLookupError if it is gone.
    """
    try:
        return time.clock_gettime(_cpu_clock(pid))
    except OSError:
        raise ProcessLookupError(f"process {pid} is gone") from None


@cache
def _cpu_clock(pid: int) -> int:
    clock = ctypes.c_int()
    if _LIBC.clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise ProcessLookupError(f"process {pid} is gone")
    return clock.value


def busy_seconds() -> float:
    """Seconds of CPU that everything on this machine has used since it was started, all cores."""
    # user, nice, system, idle, iowait, irq, softirq, steal, ...
    ticks = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(ticks[:3]) + sum(ticks[5:8])) / os.sysconf("SC_CLK_TCK")


def cpu_name() -> str:
    """What the kernel calls the processor; empty where it does not say."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return ""
