"""Many replicas with one gateway, and several gateways in front of the same replicas."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from benchmarks.simulate.arrivals import poisson
from benchmarks.simulate.baselines import WhileBusy
from benchmarks.simulate.gateway import Headrace
from benchmarks.simulate.lines import drop_window
from benchmarks.simulate.scenario import USUAL, Case, Column, Scenario
from benchmarks.simulate.scenarios.steady import REFERENCE, Window, figures_of
from benchmarks.simulate.spreading import Stale
from benchmarks.simulate.world import Gateway, World

REPLICAS = (4, 16, 64, 250, 1000)
SCALE_LOADS = (0.5, 0.95, 2.0)
# As many requests whatever the number of replicas, after as many batches to learn from.
REQUESTS = 60_000
# But over ten full batches of a replica at least: with fewer it matters how many just ended.
LEAST_MEASURED_S = 0.25
MICROSECONDS = 1e6


def run_replicas(seed: int, seconds: float, *, replicas: int, load: float) -> dict[str, float]:
    """The usual figures, and this process's CPU time for each request, simulator included."""
    plant = replace(REFERENCE, replicas=replicas)
    world = World(plant, seed)
    gateway = Headrace(world)
    rate = load * plant.capacity
    world.ask(poisson(world.draw("arrivals"), rate), gateway)
    # Long enough to learn from several batches of each replica.
    warm_s = max(0.15, min(1.0, REQUESTS / rate))
    world.clock.run(warm_s)
    count, began_at = len(world.requests), time.process_time()
    end_s = warm_s + max(min(seconds, REQUESTS / rate), LEAST_MEASURED_S + plant.slo_s)
    world.clock.run(end_s)
    cpu_s = time.process_time() - began_at
    figures = figures_of(world, Window(warm_s, end_s - plant.slo_s))
    return {**figures, "cpu_us": cpu_s / (len(world.requests) - count) * MICROSECONDS}


replicas = Scenario(
    "replicas",
    "One gateway and up to 1,000 replicas; CPU time for each request, simulator included.",
    [
        Case(f"{count} replicas at {load:g}x", partial(run_replicas, replicas=count, load=load))
        for count in REPLICAS
        for load in SCALE_LOADS
    ],
    (*USUAL, Column("cpu_us", "CPU µs a request")),
    3.0,
)

SIXTEEN = replace(REFERENCE, replicas=16)
GATEWAYS = (1, 2, 4, 8, 16)
GATEWAY_LOADS = (0.3, 0.6, 0.9, 2.0)
Team = Callable[[World, int], Sequence[Gateway]]


def late_binding(world: World, count: int) -> Sequence[Gateway]:
    """Each as if it were alone: it counts its own batches and learns what others cause."""
    return [Headrace(world) for _ in range(count)]


def partitioned(world: World, count: int) -> Sequence[Gateway]:
    """Each has replicas of its own."""
    return [Headrace(world, world.replicas[at::count]) for at in range(count)]


def stale_choices(world: World, count: int, *, every_s: float) -> Sequence[Gateway]:
    """Each binds a request at once to the better of two replicas, as of the last look at them.

    The replicas batch while busy, with window early drop.
    """
    queues = [WhileBusy(world, [replica], drop=drop_window) for replica in world.replicas]
    return [Stale(world, queues, every_s=every_s, name=str(at)) for at in range(count)]


TEAMS: dict[str, Team] = {
    "late binding": late_binding,
    "partitioned": partitioned,
    "two choices, 1 ms old": partial(stale_choices, every_s=0.001),
    "two choices, 10 ms old": partial(stale_choices, every_s=0.01),
    "two choices, 50 ms old": partial(stale_choices, every_s=0.05),
}


def run_gateways(
    seed: int, seconds: float, *, team: Team, count: int, load: float
) -> dict[str, float]:
    """The usual figures of all gateways together; each gets as many requests."""
    world = World(SIXTEEN, seed)
    for at, gateway in enumerate(team(world, count)):
        rate = load * SIXTEEN.capacity / count
        world.ask(poisson(world.draw(f"arrivals {at}"), rate), gateway)
    world.clock.run(seconds)
    return figures_of(world, Window.of(seconds, SIXTEEN))


gateways = Scenario(
    "gateways",
    "Several gateways in front of the same 16 replicas, which queue batches in order of arrival; "
    "none knows what the others have under way.",
    [
        Case(
            f"{count} gateways at {load:g}x: {name}",
            partial(run_gateways, team=team, count=count, load=load),
        )
        for load in GATEWAY_LOADS
        for count in GATEWAYS
        for name, team in TEAMS.items()
    ],
    (*USUAL, Column("batch_rows", "rows a batch")),
    2.0,
)
