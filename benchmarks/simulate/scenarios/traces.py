"""Arrivals that are not Poisson, and recorded ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.simulate.arrivals import Arrival, bursty, diurnal, poisson, recorded, step
from benchmarks.simulate.policies import POLICIES
from benchmarks.simulate.scenario import GOODPUT, IN_SLO, LATE, P50, P99, Case, Scenario
from benchmarks.simulate.scenarios.steady import REFERENCE, Window, figures_of, gateway_of
from benchmarks.simulate.world import World
from headrace.load.trace import TraceEntry, read_trace

Trace = Callable[[World, float], Iterator[Arrival]]
LOAD = 0.7


def poisson_trace(world: World, rate: float) -> Iterator[Arrival]:
    """For comparison."""
    return poisson(world.draw("arrivals"), rate)


def bursty_trace(world: World, rate: float) -> Iterator[Arrival]:
    """On for 0.1 s, off for 0.2 s, on average."""
    return bursty(world.draw("arrivals"), rate)


def diurnal_trace(world: World, rate: float) -> Iterator[Arrival]:
    """Days of 4 s."""
    return diurnal(world.draw("arrivals"), rate)


def step_trace(world: World, rate: float) -> Iterator[Arrival]:
    """Three times as much for a second."""
    return step(world.draw("arrivals"), rate, 3 * rate, 2.0, 3.0)


TRACES = {
    "poisson": poisson_trace,
    "bursty": bursty_trace,
    "diurnal": diurnal_trace,
    "step": step_trace,
}


def run_trace(seed: int, seconds: float, *, policy: str, trace: Trace) -> dict[str, float]:
    """The usual figures."""
    world = World(REFERENCE, seed)
    world.ask(trace(world, LOAD * REFERENCE.capacity), gateway_of(policy)(world))
    world.clock.run(seconds)
    return figures_of(world, Window.of(seconds, REFERENCE))


traces = Scenario(
    "traces",
    f"Average load {LOAD}; bursts and days go above the capacity.",
    [
        Case(f"{kind}: {policy}", partial(run_trace, policy=policy, trace=trace))
        for kind, trace in TRACES.items()
        for policy in POLICIES
    ],
    (GOODPUT, IN_SLO, LATE, P50, P99),
    9.0,
)


def run_recorded(
    seed: int, seconds: float, *, policy: str, entries: Sequence[TraceEntry]
) -> dict[str, float]:
    """A recorded trace as it is; the seed is only the replicas'."""
    world = World(REFERENCE, seed)
    world.ask(recorded(entries), gateway_of(policy)(world))
    world.clock.run(seconds)
    return figures_of(world, Window(0.0, seconds))


def recording(file: Path) -> Scenario:
    """The scenario of a recorded trace. Raises InvalidArgument (BAD_TRACE) naming a wrong line."""
    entries = read_trace(file)
    span_s = entries[-1].at_s - entries[0].at_s
    return Scenario(
        "recorded",
        f"{file.name}: {len(entries)} requests in {span_s:.1f} s.",
        [Case(name, partial(run_recorded, policy=name, entries=entries)) for name in POLICIES],
        (GOODPUT, IN_SLO, LATE, P50, P99),
        span_s + 1.0,
    )
