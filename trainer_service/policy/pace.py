"""How fast a job steps: the bound it was given, and the rate it reached over the last second.

Decides that time lost (in a publication, say) is not made up for by a burst.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 1.0
MARK_S = 0.1


class Pace:
    """`max_steps_per_s` 0 is unbounded."""

    def __init__(self, max_steps_per_s: float, *, now: float) -> None:
        self._interval_s = 1 / max_steps_per_s if max_steps_per_s else 0.0
        self._next_at = now
        self._steps = 0
        self._marks = deque([(now, 0)])

    def on_step(self, now: float) -> None:
        """A step ended."""
        self._steps += 1
        self._next_at = max(self._next_at + self._interval_s, now)
        if now - self._marks[-1][0] >= MARK_S:
            self._marks.append((now, self._steps))
        while len(self._marks) > 1 and now - self._marks[1][0] >= WINDOW_S:
            self._marks.popleft()

    def delay_s(self, now: float) -> float:
        """Seconds to wait before the next step; 0 if it may begin."""
        return max(0.0, self._next_at - now)

    def steps_per_s(self, now: float) -> float:
        """Steps per second over the last second or so; 0 before the first span is known."""
        since, steps = self._marks[0]
        return (self._steps - steps) / (now - since) if now > since else 0.0
