"""Simulated time: callbacks by the point in time at which they are due."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Clock:
    """`now` in seconds; equal points in order of scheduling."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._ids = itertools.count()

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Acts at a point in time, at once if it has passed."""
        heapq.heappush(self._events, (max(when, self.now), next(self._ids), act))

    def run(self, until: float) -> None:
        """Everything that is due by then."""
        while self._events and self._events[0][0] <= until:
            self.now, _, act = heapq.heappop(self._events)
            act()
        self.now = until
