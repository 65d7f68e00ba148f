"""Queues of the baselines: first come, first served, and what is dropped before a batch is taken.

They know l(b) exactly and from the start, which no real gateway does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from benchmarks.simulate.replica import Speed
from benchmarks.simulate.request import Request


class Line:
    """Requests in order of arrival, with their rows counted."""

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        self.rows = 0

    def __bool__(self) -> bool:
        return bool(self.requests)

    @property
    def head(self) -> Request:
        """The first. Raises IndexError if there is none."""
        return self.requests[0]

    def add(self, request: Request) -> None:
        """One more, at the end."""
        self.requests.append(request)
        self.rows += request.rows

    def pop(self) -> Request:
        """Takes out the first."""
        request = self.requests.popleft()
        self.rows -= request.rows
        return request

    def take(self, most: int) -> list[Request]:
        """Takes out as many as have at most so many rows together, and the first anyway."""
        taken = [self.pop()]
        rows = taken[0].rows
        while self.requests and rows + self.head.rows <= most:
            taken.append(self.pop())
            rows += taken[-1].rows
        return taken


# Drops requests of a line at a point in time, told l(b) and b*; rows that a batch may have after.
Drop = Callable[[Line, float, Speed, int], int]
NO_BOUND = 2**31


def drop_none(line: Line, now: float, speed: Speed, best: int) -> int:
    """Every request is served, however late."""
    del line, now, speed, best
    return NO_BOUND


def drop_expired(line: Line, now: float, speed: Speed, best: int) -> int:
    """Those that are due by now."""
    del speed, best
    while line and line.head.due_at <= now:
        line.pop().lose("LATE")
    return NO_BOUND


def drop_hopeless(line: Line, now: float, speed: Speed, best: int) -> int:
    """Heads that would be late even alone."""
    del best
    while line and line.head.due_at < now + speed.seconds(1):
        line.pop().lose("LATE")
    return NO_BOUND


def drop_window(line: Line, now: float, speed: Speed, best: int) -> int:
    """Heads for whose sake the batch would be too small: window early drop.

    Source: Nexus (SOSP'19), section 6.3.
    """
    while line:
        room = speed.fit(line.head.due_at - now)
        if room >= max(min(best, line.rows - line.head.rows), 1):
            return room
        line.pop().lose("GIVEN_UP")
    return NO_BOUND
