"""Whether a job that failed is started again, and when.

Decides by progress: a job that got further than at its last failure has earned a fresh count, one
that does not is tried `max_restarts` times, each wait twice as long as the one before.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 30.0


@dataclass(frozen=True, slots=True)
class Restart:
    """Start it again after this many seconds."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Leave it failed; `failures` in a row got it no further."""

    failures: int


class RestartPolicy:
    """`progress` is any number that grows as the job gets on, such as its checkpoint's step."""

    def __init__(self, max_restarts: int, *, progress: int = 0) -> None:
        self._max_restarts = max_restarts
        self._progress = progress
        self._failures = 0

    def on_failure(self, progress: int, *, permanent: bool = False) -> Restart | GiveUp:
        """The job ended without being asked; `permanent` where trying again cannot help."""
        if progress > self._progress:
            self._progress = progress
            self._failures = 0
        self._failures += 1
        if permanent or self._failures > self._max_restarts:
            return GiveUp(self._failures)
        # The exponent is bounded, or a patient setting would overflow a float.
        delay_s = FIRST_DELAY_S * 2.0 ** min(self._failures - 1, 32)
        return Restart(min(delay_s, LONGEST_DELAY_S))

    def __repr__(self) -> str:
        return f"RestartPolicy({self._failures} of {self._max_restarts} at {self._progress})"
