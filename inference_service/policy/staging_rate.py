"""How fast a version may be staged while the replica answers: as fast as its callers do not feel.

Pure: latencies and amounts come in with `now` (seconds on any monotonic clock). Copying and waiting
are the shell's (`staging`).

What callers feel is the p99 of all batches. While nothing is staged, batches show what is calm, and
one that takes more than `_WORSE` times the calm p99 is slow. Stagings make slow what is slow beside
them beyond the share that is slow without. While that is no more than one in a hundred of the last
minute's batches, they move the p99 of all no further, and nothing is held back: a load that comes
alone is as fast as it goes. Beyond, stagings are held back, and where the p99 beside them is worse,
at each interval to half of what was just staged in a second; else to a step more (Chiu and Jain,
1989). Latencies beside them are then forgotten, so that one burst counts once. Never below `floor`:
a replica that is always slow still gets its versions. With no batches there is nobody to wait for.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

MIB = 1024 * 1024

MOST_RATE = 16 * 1024 * MIB
STEP = 64 * MIB
INTERVAL_S = 0.25
# Calm latencies that count, at most.
MOST_SAMPLES = 1024
# Beside stagings: fewer say nothing of a p99, more hide what is new.
LEAST_SAMPLES = 32
MOST_SEEN = 256
# Without a batch for so long, nobody is held up.
ALONE_S = 2.0
# What is older says little about now.
LASTING_S = 60.0
# Of the batches of so long.
MOST_SLOW = 0.01
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


@dataclass(slots=True)
class _Shares:
    """How many batches, and slow ones among them; each counts less the older it is."""

    batches: float = 0.0
    slow: float = 0.0

    def fade(self, kept: float) -> None:
        self.batches *= kept
        self.slow *= kept

    def add(self, slow: bool) -> None:
        self.batches += 1
        self.slow += slow

    def share(self) -> float:
        return self.slow / self.batches if self.batches else 0.0


class StagingRate:
    """One device's. Stagings of several models share the rate."""

    def __init__(self, *, floor: float) -> None:
        self._floor = floor
        self._rate: float = MOST_RATE
        self._active = 0
        self._calm: deque[tuple[float, float]] = deque(maxlen=MOST_SAMPLES)
        self._seen: deque[tuple[float, float]] = deque(maxlen=MOST_SEEN)
        self._free_at = 0.0
        self._decide_at = 0.0
        self._decreases = 0
        self._answered_at = float("-inf")
        # Beside nothing and beside stagings.
        self._calmly = _Shares()
        self._beside = _Shares()
        # What makes a batch slow.
        self._limit_s = float("inf")
        # Since the last decision: bytes, seconds of stagings that ended, when one began.
        self._staged = 0
        self._staged_s = 0.0
        self._since = 0.0

    def on_begin(self, *, now: float) -> None:
        """A staging begins; `on_end` follows."""
        if not self._active:
            self._free_at = now
            self._since = now
            self._limit_s = self._limit(now)
        self._active += 1

    def on_end(self, *, now: float) -> None:
        """It has ended."""
        self._active -= 1
        if not self._active:
            self._staged_s += now - self._since

    def on_batch(self, seconds: float, *, now: float) -> None:
        """A batch took `seconds` from its arrival at the device to its outputs."""
        if self._answered_at < now:
            kept = math.exp((self._answered_at - now) / LASTING_S)
            self._calmly.fade(kept)
            self._beside.fade(kept)
        self._answered_at = now
        (self._beside if self._active else self._calmly).add(seconds > self._limit_s)
        (self._seen if self._active else self._calm).append((now, seconds))

    def alone(self, *, now: float) -> bool:
        """Whether nobody has been answered lately, so that nobody is held up."""
        return now - self._answered_at > ALONE_S

    def take(self, size: int, *, now: float) -> bool:
        """Whether `size` bytes may be staged now; True spends them."""
        if self.alone(now=now):
            self._free_at = now
            return True
        self._decide(now)
        free = self._unfelt() or self._rate >= MOST_RATE
        if now < self._free_at and not free:
            return False
        self._staged += size
        self._free_at = now if free else now + size / self._rate
        return True

    def next_wakeup(self) -> float | None:
        """When to try again; None while nothing is staged."""
        return self._free_at if self._active else None

    def snapshot(self) -> StagingSnapshot:
        """The numbers."""
        return StagingSnapshot(
            self._shown_rate(),
            _p99(self._calm),
            _p99(self._seen),
            self._decreases,
        )

    def _decide(self, now: float) -> None:
        _forget(self._seen, now - LASTING_S)
        if self._unfelt() or now < self._decide_at or len(self._seen) < LEAST_SAMPLES:
            return
        self._decide_at = now + INTERVAL_S
        if _p99(self._seen) > self._limit_s:
            self._rate = max(self._floor, min(self._rate, self._measured(now)) / 2)
            self._decreases += 1
            self._seen.clear()
        else:
            self._rate = min(MOST_RATE, self._rate + STEP)
        self._staged, self._staged_s, self._since = 0, 0.0, now

    def _unfelt(self) -> bool:
        made_slow = self._beside.slow - self._beside.batches * self._calmly.share()
        return made_slow <= MOST_SLOW * (self._beside.batches + self._calmly.batches)

    def _shown_rate(self) -> float:
        if not self._active:
            return 0.0
        return MOST_RATE if self._unfelt() else self._rate

    def _measured(self, now: float) -> float:
        """Bytes per second since the last decision, while something was staged."""
        seconds = self._staged_s + now - self._since
        return self._staged / seconds if seconds > 0 else MOST_RATE

    def _limit(self, now: float) -> float:
        # Where loads leave no calm, what was calm last still says what is slow.
        _forget(self._calm, now - LASTING_S, keep=LEAST_SAMPLES)
        if len(self._calm) < LEAST_SAMPLES:
            return float("inf")
        return _WORSE * _p99(self._calm) + _SLACK_S


def _forget(samples: deque[tuple[float, float]], before: float, keep: int = 0) -> None:
    while len(samples) > keep and samples[0][0] < before:
        samples.popleft()


def _p99(samples: deque[tuple[float, float]]) -> float:
    if not samples:
        return 0.0
    ordered = sorted(seconds for _, seconds in samples)
    # Of up to a hundred the second worst: one alone says nothing.
    return ordered[(len(ordered) - 1) * 99 // 100]
