"""Wall-clock time, for records that carry a `_time`; everything else uses a monotonic clock."""

from __future__ import annotations

import time


def wall_time_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000
