"""One simulated situation: a clock, replicas, everything that is asked, and chance by name."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from benchmarks.capacity import Capacity
from benchmarks.simulate.arrivals import Arrival
from benchmarks.simulate.clock import Clock
from benchmarks.simulate.replica import Replica, Speed
from benchmarks.simulate.request import Request
from gateway.policy.lane import QueueKey

# What capacity counts on: the least margin that the policy keeps.
REFERENCE = Speed()


@dataclass(frozen=True, slots=True)
class Plant:
    """What is simulated: equal replicas that serve the same models, and what is asked of them.

    `way_s` is one way between gateway and replica; a request is due `slo_s` after it came.
    """

    replicas: int = 4
    speed: Speed = REFERENCE
    slo_s: float = 0.05
    max_rows: int = 64
    way_s: float = 0.0
    max_inflight: int = 1
    models: int = 1

    @property
    def best_rows(self) -> int:
        """b*."""
        return self._most.best_rows

    @property
    def capacity(self) -> float:
        """Rows a second: N * b* / l(b*)."""
        return self._most.rate

    @property
    def _most(self) -> Capacity:
        speed = self.speed
        span_s = self.slo_s - 2 * self.way_s
        return Capacity(self.replicas, speed.alpha_s, speed.beta_s, self.max_rows, span_s)

    def key(self, model: int = 0) -> QueueKey:
        """The queue of a model."""
        return QueueKey(f"m{model}", 0, (), (), self.max_rows)


class Gateway(Protocol):
    """What is in front of the replicas: our policies or others'."""

    def offer(self, request: Request) -> None:
        """A request came; it is answered or lost now or later."""


class Clients(Protocol):
    """What clients do about requests that are lost or late."""

    def watch(self, request: Request) -> None:
        """The request is about to be offered."""


class World:
    """Everything random is drawn by name from the seed, so that policies see the same arrivals."""

    def __init__(self, plant: Plant, seed: int) -> None:
        self.plant = plant
        self.clock = Clock()
        self.requests: list[Request] = []
        self._seed = seed
        self.replicas = [
            Replica(self.clock, plant.speed, self.draw(f"replica {at}"))
            for at in range(plant.replicas)
        ]

    def draw(self, name: str) -> random.Random:
        """The chance of this name, the same for each world of this seed."""
        return random.Random(f"{self._seed} {name}")

    def ask(
        self,
        arrivals: Iterable[Arrival],
        gateway: Gateway,
        *,
        clients: Clients | None = None,
        slo_s: float | None = None,
    ) -> None:
        """Lets requests arrive at a gateway as long as there are arrivals and time passes."""
        span_s = self.plant.slo_s if slo_s is None else slo_s
        feed = iter(arrivals)
        keys = [self.plant.key(model) for model in range(self.plant.models)]

        def next_one() -> None:
            arrival = next(feed, None)
            if arrival is not None:
                self.clock.at(arrival.at_s, lambda: come(arrival))

        def come(arrival: Arrival) -> None:
            now = self.clock.now
            request = Request(
                keys[arrival.model],
                now,
                now + span_s,
                rows=arrival.rows,
                priority=arrival.priority,
                tenant=arrival.tenant,
            )
            self.requests.append(request)
            if clients is not None:
                clients.watch(request)
            gateway.offer(request)
            next_one()

        next_one()
