"""How fast a version may be staged while the replica answers: as fast as its callers do not feel.

Pure: latencies and amounts come in with `now` (seconds on any monotonic clock). Copying and waiting
are the shell's (`staging`).

Additive increase, multiplicative decrease (Chiu and Jain, 1989), of bytes per second. While nothing
is staged, batches show what is calm; while something is, the p99 of the last seconds is compared
with it at every interval. Worse than `_WORSE` times the calm one: half the rate, and the latencies
seen so far are forgotten, so that one burst counts once. Else a step more. Never below `floor`: a
replica that is always slow still gets its versions. With no batches there is nobody to wait for.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

MIB = 1024 * 1024

FIRST_RATE = 512 * MIB
MOST_RATE = 16 * 1024 * MIB
STEP = 64 * MIB
INTERVAL_S = 0.25
# Latencies that count: these many, while staging none older than the window.
MOST_SAMPLES = 1024
LEAST_SAMPLES = 8
WINDOW_S = 2.0
# A calm value older than this says little about now.
CALM_S = 60.0
_WORSE = 1.25
# What a loaded machine adds to a short batch by itself.
_SLACK_S = 0.0005


@dataclass(frozen=True, slots=True)
class StagingSnapshot:
    """`rate` in bytes per second, 0 while nothing is staged; p99 in seconds, 0 while unknown."""

    rate: float
    calm_p99_s: float
    staging_p99_s: float
    decreases: int


class StagingRate:
    """One device's. Stagings of several models share the rate."""

    def __init__(self, *, floor: float) -> None:
        self._floor = floor
        self._rate = max(floor, FIRST_RATE)
        self._active = 0
        self._calm: deque[tuple[float, float]] = deque(maxlen=MOST_SAMPLES)
        self._seen: deque[tuple[float, float]] = deque(maxlen=MOST_SAMPLES)
        self._free_at = 0.0
        self._decide_at = 0.0
        self._decreases = 0
        self._answered_at = float("-inf")
        self._idle = False

    def on_begin(self, *, now: float) -> None:
        """A staging begins; `on_end` follows."""
        if not self._active:
            self._seen.clear()
            self._decide_at = now + INTERVAL_S
            self._free_at = now
        self._active += 1

    def on_end(self) -> None:
        """It has ended."""
        self._active -= 1

    def on_batch(self, seconds: float, *, now: float) -> None:
        """A batch took `seconds` from its arrival at the device to its outputs."""
        self._answered_at = now
        (self._seen if self._active else self._calm).append((now, seconds))

    def alone(self, *, now: float) -> bool:
        """Whether nobody has been answered lately, so that nobody is held up."""
        return now - self._answered_at > WINDOW_S

    def take(self, size: int, *, now: float) -> bool:
        """Whether `size` bytes may be staged now; True spends them."""
        self._decide(now)
        if now < self._free_at:
            return False
        # At the highest rate nothing is measured out.
        self._free_at = now if self._rate >= MOST_RATE else now + size / self._rate
        return True

    def next_wakeup(self) -> float | None:
        """When to try again; None while nothing is staged."""
        return self._free_at if self._active else None

    def snapshot(self) -> StagingSnapshot:
        """The numbers."""
        return StagingSnapshot(
            self._rate if self._active else 0.0,
            _p99(self._calm),
            _p99(self._seen),
            self._decreases,
        )

    def _decide(self, now: float) -> None:
        _forget(self._seen, now - WINDOW_S)
        _forget(self._calm, now - CALM_S)
        if self.alone(now=now):
            self._rate = MOST_RATE
            self._idle = True
            return
        if self._idle:
            self._idle = False
            self._rate = max(self._floor, FIRST_RATE)
        if now < self._decide_at or len(self._seen) < LEAST_SAMPLES:
            return
        self._decide_at = now + INTERVAL_S
        if self._worse():
            self._rate = max(self._floor, self._rate / 2)
            self._decreases += 1
            self._seen.clear()
        else:
            self._rate = min(MOST_RATE, self._rate + STEP)

    def _worse(self) -> bool:
        if len(self._calm) < LEAST_SAMPLES:
            return False
        return _p99(self._seen) > _WORSE * _p99(self._calm) + _SLACK_S


def _forget(samples: deque[tuple[float, float]], before: float) -> None:
    while samples and samples[0][0] < before:
        samples.popleft()


def _p99(samples: deque[tuple[float, float]]) -> float:
    if not samples:
        return 0.0
    ordered = sorted(seconds for _, seconds in samples)
    # Of up to a hundred the second worst: one alone says nothing.
    return ordered[(len(ordered) - 1) * 99 // 100]
