"""A replica as the simulator sees it: batches one after another, each for l(b) and some noise."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.simulate.clock import Clock

Act = Callable[[], None]
# However noisy, no batch takes less than this share of what it should.
LEAST_FACTOR = 0.5


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of a batch as such and per row, and the relative deviation of a batch."""

    alpha_s: float = 0.005
    beta_s: float = 0.00025
    noise: float = 0.0

    def seconds(self, rows: int) -> float:
        """What a batch takes without noise."""
        return self.alpha_s + self.beta_s * rows

    def fit(self, span_s: float) -> int:
        """Rows of the largest batch that takes no longer than `span_s`; 0 if none does."""
        return max(int((span_s - self.alpha_s) / self.beta_s + 1e-9), 0)


@dataclass(frozen=True, slots=True)
class Span:
    """A batch that was computed: from when, until when, and its rows."""

    began_at: float
    ended_at: float
    rows: int


@dataclass(slots=True)
class _Batch:
    rows: int
    done: Act
    failed: Act | None


class Replica:
    """`factor` slows it down; `failing`, its batches take their time and fail.

    Stopped, it keeps what it has and goes on later; killed, it loses it.
    """

    def __init__(self, clock: Clock, speed: Speed, draw: random.Random) -> None:
        self.factor = 1.0
        self.failing = False
        self.alive = True
        self.history: list[Span] = []
        # Told after the replica was killed (and before its batches fail) or came back.
        self.watchers: list[Act] = []
        self._clock = clock
        self._speed = speed
        self._draw = draw
        self._waiting: deque[_Batch] = deque()
        self._running = False
        self._stopped = False
        self._began_at = 0.0
        # Seconds that the running batch needs, of which some have passed when it is stopped.
        self._left_s = 0.0
        # An end that was set before a stop or a kill is none.
        self._life = 0

    @property
    def waiting(self) -> int:
        """Batches it has, the running one included."""
        return len(self._waiting)

    @property
    def waiting_rows(self) -> int:
        """Rows of these batches."""
        return sum([batch.rows for batch in self._waiting])

    def send(self, rows: int, done: Act, failed: Act | None = None) -> None:
        """`done` is called when the batch is computed, `failed` if it never will be."""
        if not self.alive:
            if failed is not None:
                self._clock.at(self._clock.now, failed)
            return
        self._waiting.append(_Batch(rows, done, failed))
        if not self._running and not self._stopped:
            self._start()

    def kill(self) -> None:
        """Loses what it has; takes nothing until it comes back."""
        lost, self._waiting = self._waiting, deque()
        self.alive = self._running = self._stopped = False
        self._life += 1
        self._tell()
        for batch in lost:
            if batch.failed is not None:
                batch.failed()

    def revive(self) -> None:
        """Comes back, empty."""
        self.alive = True
        self._tell()

    def stop(self) -> None:
        """Computes nothing until it goes on, and says nothing about it."""
        self._stopped = True
        self._left_s -= self._clock.now - self._began_at
        self._life += 1

    def go_on(self) -> None:
        """Goes on where it was stopped."""
        self._stopped = False
        if self._running:
            self._began_at = self._clock.now
            self._arm()
        elif self._waiting:
            self._start()

    def _tell(self) -> None:
        for watcher in self.watchers:
            watcher()

    def _start(self) -> None:
        self._running = True
        noise = self._draw.gauss(1.0, self._speed.noise) if self._speed.noise else 1.0
        factor = self.factor * max(noise, LEAST_FACTOR)
        self._left_s = self._speed.seconds(self._waiting[0].rows) * factor
        self._began_at = self._clock.now
        self._arm()

    def _arm(self) -> None:
        life = self._life
        self._clock.at(self._clock.now + self._left_s, lambda: self._end(life))

    def _end(self, life: int) -> None:
        if life != self._life:
            return
        batch = self._waiting.popleft()
        self.history.append(Span(self._began_at, self._clock.now, batch.rows))
        self._running = False
        if self._waiting:
            self._start()
        if self.failing and batch.failed is not None:
            batch.failed()
        else:
            batch.done()
