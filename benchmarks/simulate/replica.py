"""A replica as the simulator sees it: batches one after another, each for l(b) and some noise."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.simulate.clock import Clock

Done = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of a batch as such and per row, and the relative deviation of a batch."""

    alpha_s: float = 0.005
    beta_s: float = 0.00025
    noise: float = 0.0

    def seconds(self, rows: int) -> float:
        """What a batch takes without noise."""
        return self.alpha_s + self.beta_s * rows


class Replica:
    """`factor` slows it down; stopped, it keeps what it has; killed, it loses it."""

    def __init__(self, clock: Clock, speed: Speed, draw: random.Random) -> None:
        self.factor = 1.0
        self.busy_s = 0.0
        self.alive = True
        self._clock = clock
        self._speed = speed
        self._draw = draw
        self._waiting: deque[tuple[int, Done]] = deque()
        self._running = False

    @property
    def waiting(self) -> int:
        """Batches it has, the running one included."""
        return len(self._waiting)

    def send(self, rows: int, done: Done) -> None:
        """`done` is called when the batch is computed."""
        self._waiting.append((rows, done))
        if not self._running:
            self._start()

    def _start(self) -> None:
        self._running = True
        rows = self._waiting[0][0]
        noise = self._draw.gauss(1.0, self._speed.noise) if self._speed.noise else 1.0
        seconds = self._speed.seconds(rows) * self.factor * max(noise, 0.5)
        self.busy_s += seconds
        self._clock.at(self._clock.now + seconds, self._end)

    def _end(self) -> None:
        _, done = self._waiting.popleft()
        self._running = False
        if self._waiting:
            self._start()
        done()
