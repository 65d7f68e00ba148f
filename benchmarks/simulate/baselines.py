"""What others do, with the interface of our gateway: timers, batches while busy, deferred batches.

None of them refuses a request, tells classes or tenants apart, or learns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.simulate.lines import Drop, Line, drop_expired, drop_none, drop_window
from benchmarks.simulate.replica import Replica
from benchmarks.simulate.request import Request
from benchmarks.simulate.world import World
from gateway.policy.lane import QueueKey


class _Baseline:
    """A line for each model, and batches on their way."""

    def __init__(
        self, world: World, replicas: Sequence[Replica] | None = None, *, drop: Drop
    ) -> None:
        self._plant = world.plant
        self._clock = world.clock
        self._replicas = list(world.replicas if replicas is None else replicas)
        self._drop = drop
        self._lines: dict[QueueKey, Line] = {}
        self.rows_sent = 0

    @property
    def rows(self) -> int:
        """Rows that wait or are under way."""
        return self.rows_sent + sum([line.rows for line in self._lines.values()])

    def _line(self, key: QueueKey) -> Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line()
        return line

    def _take(self, line: Line) -> list[Request]:
        """The next batch; nothing if all was dropped."""
        plant = self._plant
        # What the way back takes is no time to compute in.
        arrives_at = self._clock.now + 2 * plant.way_s
        room = self._drop(line, arrives_at, plant.speed, plant.best_rows)
        return line.take(min(room, plant.max_rows)) if line else []

    def _send(self, replica: Replica, batch: list[Request], then: Callable[[], None]) -> None:
        rows = sum([request.rows for request in batch])
        self.rows_sent += rows

        def back() -> None:
            self.rows_sent -= rows
            for request in batch:
                request.answer(self._clock.now)
            then()

        def lost() -> None:
            self.rows_sent -= rows
            for request in batch:
                request.lose("FAILED")
            then()

        way = self._after_way
        way(lambda: replica.send(rows, way(back), way(lost)))()

    def _after_way(self, act: Callable[[], None]) -> Callable[[], None]:
        if not self._plant.way_s:
            return act
        return lambda: self._clock.at(self._clock.now + self._plant.way_s, act)


class WhileBusy(_Baseline):
    """An idle replica takes at once what waits; the longest idle goes first."""

    def __init__(
        self, world: World, replicas: Sequence[Replica] | None = None, *, drop: Drop = drop_expired
    ) -> None:
        super().__init__(world, replicas, drop=drop)
        # As often as it may have batches in flight.
        self._idle = self._replicas * self._plant.max_inflight
        self._timer_at = float("inf")

    def offer(self, request: Request) -> None:
        """A request came."""
        self._line(request.key).add(request)
        self._pump()

    def _pump(self) -> None:
        while self._idle:
            line = self._most_urgent()
            if line is None:
                return
            batch = self._take(line)
            if batch:
                replica = self._idle.pop(0)
                self._send(replica, batch, partial(self._free, replica))

    def _free(self, replica: Replica) -> None:
        self._idle.append(replica)
        self._pump()

    def _most_urgent(self) -> Line | None:
        waiting = [(self._leaves_at(line), at) for at, line in enumerate(self._waiting())]
        if not waiting:
            return None
        leaves_at, at = min(waiting)
        if leaves_at <= self._clock.now:
            return self._waiting()[at]
        self._arm(leaves_at)
        return None

    def _waiting(self) -> list[Line]:
        """Lines in which something waits, the most urgent first."""
        waiting = [line for line in self._lines.values() if line]
        return sorted(waiting, key=lambda line: line.head.due_at) if len(waiting) > 1 else waiting

    def _leaves_at(self, line: Line) -> float:
        """From when on an idle replica may take a batch of the line."""
        del line
        return float("-inf")

    def _arm(self, at: float) -> None:
        if at != self._timer_at:
            self._timer_at = at
            self._clock.at(at, self._pump)


class Timer(WhileBusy):
    """A batch may leave when it is full or its first request has waited `delay_s`.

    The default of TensorFlow Serving, TorchServe and Triton: nothing is dropped.
    """

    def __init__(self, world: World, *, delay_s: float, drop: Drop = drop_none) -> None:
        super().__init__(world, drop=drop)
        self._delay_s = delay_s

    def _leaves_at(self, line: Line) -> float:
        if line.rows >= self._plant.max_rows:
            return float("-inf")
        return line.head.arrived_at + self._delay_s


class Deferred(WhileBusy):
    """A batch waits until it is full or its first request could not wait for one more.

    Source: Symphony (arXiv 2308.07470), whose batches leave as late as they can.
    """

    def __init__(self, world: World, *, drop: Drop = drop_window) -> None:
        super().__init__(world, drop=drop)

    def _leaves_at(self, line: Line) -> float:
        plant = self._plant
        if line.rows >= plant.best_rows:
            return float("-inf")
        return line.head.due_at - 2 * plant.way_s - plant.speed.seconds(line.rows + 1)
