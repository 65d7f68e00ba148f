"""What a process holds: resident memory and file descriptors, read from /proc."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SETTLES_WITHIN_S = 10.0
# Longer than the servers wait before they return what a burst took.
REST_S = 6.0
MOST_GROWTH = 0.05
# What allocators keep of a process of 100 MB; a leak of 100 bytes a request shows in a whole run.
SPARE_BYTES = 10_000_000
# Connections of health checks and of the witness come and go.
SPARE_DESCRIPTORS = 2


@dataclass(frozen=True)
class Vitals:
    """Bytes and descriptors at one moment."""

    memory_bytes: int
    descriptors: int

    @staticmethod
    def of(pid: int) -> Vitals:
        """Raises FileNotFoundError once the process is gone."""
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return Vitals(pages * PAGE_BYTES, len(list(Path(f"/proc/{pid}/fd").iterdir())))

    def within(self, before: Vitals) -> bool:
        """Whether this is `before` again, give or take MOST_GROWTH."""
        most_bytes = before.memory_bytes + max(before.memory_bytes * MOST_GROWTH, SPARE_BYTES)
        most_descriptors = before.descriptors * (1 + MOST_GROWTH) + SPARE_DESCRIPTORS
        return self.memory_bytes <= most_bytes and self.descriptors <= most_descriptors


def rested(pid: int) -> Vitals:
    """What the process holds once that has not changed for REST_S."""
    deadline = time.monotonic() + SETTLES_WITHIN_S
    last, since = Vitals.of(pid), time.monotonic()
    while time.monotonic() < min(deadline, since + REST_S):
        time.sleep(0.1)
        now = Vitals.of(pid)
        if now != last:
            last, since = now, time.monotonic()
    return last
