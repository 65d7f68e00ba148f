"""Baselines that bind a request to a replica as it comes: each replica has a queue of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from benchmarks.simulate.baselines import WhileBusy
from benchmarks.simulate.lines import Drop, drop_expired
from benchmarks.simulate.request import Request
from benchmarks.simulate.world import World

# Rows that wait or run at each replica, as far as is known.
Loads = Sequence[int]
Choose = Callable[[Loads], int]


def round_robin() -> Choose:
    """In turns."""
    turn = 0

    def choose(loads: Loads) -> int:
        nonlocal turn
        turn += 1
        return turn % len(loads)

    return choose


def two_choices(draw: random.Random) -> Choose:
    """The less loaded of two at random. Source: Mitzenmacher (2001)."""

    def choose(loads: Loads) -> int:
        count = len(loads)
        one = int(draw.random() * count)
        other = int(draw.random() * (count - 1))
        other += other >= one
        return one if loads[one] <= loads[other] else other

    return choose


def shortest_queue() -> Choose:
    """The least loaded of all."""
    return lambda loads: loads.index(min(loads))


class Spread:
    """Sends each request to a replica's own queue at once; batches while busy there."""

    def __init__(self, world: World, choose: Choose, *, drop: Drop = drop_expired) -> None:
        self._queues = [WhileBusy(world, [replica], drop=drop) for replica in world.replicas]
        self._choose = choose

    def offer(self, request: Request) -> None:
        """A request came."""
        at = self._choose([queue.rows for queue in self._queues])
        self._queues[at].offer(request)


class Stale:
    """One of several gateways that know the replicas' queues as they were a while ago.

    Loads are asked every `every_s`, and what this gateway sent since then is added.
    """

    def __init__(
        self, world: World, queues: Sequence[WhileBusy], *, every_s: float, name: str
    ) -> None:
        self._clock = world.clock
        self._queues = queues
        self._every_s = every_s
        self._choose = two_choices(world.draw(f"choices {name}"))
        self._loads = [0] * len(queues)
        self._clock.at(world.draw(f"phase {name}").random() * every_s, self._look)

    def offer(self, request: Request) -> None:
        """A request came."""
        at = self._choose(self._loads)
        self._loads[at] += request.rows
        self._queues[at].offer(request)

    def _look(self) -> None:
        self._loads = [queue.rows for queue in self._queues]
        self._clock.at(self._clock.now + self._every_s, self._look)
