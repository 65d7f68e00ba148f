"""Who gets what there is: classes under a flood, tenants with and without weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from benchmarks.simulate.arrivals import Kind, merge, poisson
from benchmarks.simulate.gateway import Headrace
from benchmarks.simulate.outcome import Outcome
from benchmarks.simulate.policies import OURS
from benchmarks.simulate.scenario import (
    IN_SLO,
    P99,
    PERCENT,
    Case,
    Column,
    Found,
    Scenario,
    Verdict,
    at_least,
    at_most,
)
from benchmarks.simulate.scenarios.steady import REFERENCE, Window, gateway_of
from benchmarks.simulate.world import World

TOP_LOADS = (0.3, 0.6, 0.9)
FLOOD = 12.0
BASELINE = "while busy, window drop"


def run_flood(
    seed: int, seconds: float, *, policy: str, top: float, flood: float
) -> dict[str, float]:
    """Figures of the top class while the lowest one floods; goodput is that of both."""
    world = World(REFERENCE, seed)
    capacity = REFERENCE.capacity
    world.ask(
        merge(
            poisson(world.draw("top"), top * capacity, Kind(priority=1)),
            poisson(world.draw("flood"), flood * capacity, Kind(priority=3)),
        ),
        gateway_of(policy)(world),
    )
    world.clock.run(seconds)
    window = Window.of(seconds, REFERENCE)
    mine = [request for request in world.requests if request.priority == 1]
    both = Outcome.of(world.requests, window.begin_s, window.end_s)
    return {
        **Outcome.of(mine, window.begin_s, window.end_s).figures(capacity),
        "goodput": both.goodput / capacity,
    }


def _top(policy: str, load: float) -> str:
    return f"{policy}, top class at {load:g}x"


def _judge_flood(found: Found) -> list[Verdict]:
    return [
        at_least(
            f"top class ({load:g}x) in SLO under a {FLOOD:g}x flood, %",
            found.estimate(_top(OURS, load), "in_slo"),
            0.999,
            PERCENT,
            2,
        )
        for load in TOP_LOADS
    ]


flood = Scenario(
    "flood",
    f"The lowest class offers {FLOOD:g} times the capacity; figures of the top class.",
    [
        Case(_top(policy, load), partial(run_flood, policy=policy, top=load, flood=FLOOD))
        for policy in (BASELINE, OURS)
        for load in TOP_LOADS
    ],
    (IN_SLO, P99, Column("goodput", "goodput of both, %", PERCENT)),
    2.5,
    _judge_flood,
)


def run_tenants(
    seed: int,
    seconds: float,
    *,
    loads: Mapping[str, float],
    weights: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Each tenant's rows in time over its fair share of all that were: 1 is fair."""
    world = World(REFERENCE, seed)
    capacity = REFERENCE.capacity
    streams = (
        poisson(world.draw(f"tenant {name}"), load * capacity, Kind(tenant=name))
        for name, load in loads.items()
    )
    world.ask(merge(*streams), Headrace(world, weights=dict(weights or {})))
    world.clock.run(seconds)
    window = Window.of(seconds, REFERENCE)
    rows = {
        name: Outcome.of(
            [request for request in world.requests if request.tenant == name],
            window.begin_s,
            window.end_s,
        ).good_rows
        for name in loads
    }
    total, parts = sum(rows.values()), sum((weights or {}).get(name, 1.0) for name in loads)
    shares = {name: rows[name] / total / ((weights or {}).get(name, 1.0) / parts) for name in loads}
    return {
        "least": min(shares.values()),
        "most": max(shares.values()),
        "goodput": total / (window.end_s - window.begin_s) / capacity,
    }


TENANTS = {
    "three equal, 1x each": partial(run_tenants, loads={"a": 1.0, "b": 1.0, "c": 1.0}),
    "three equal, 0.5x, 2x and 6x": partial(run_tenants, loads={"a": 0.5, "b": 2.0, "c": 6.0}),
    "weights 1, 2, 4, 2x each": partial(
        run_tenants,
        loads={"a": 2.0, "b": 2.0, "c": 2.0},
        weights={"a": 1.0, "b": 2.0, "c": 4.0},
    ),
    "twenty equal, 0.2x each": partial(
        run_tenants, loads={f"t{number}": 0.2 for number in range(20)}
    ),
}


def _judge_tenants(found: Found) -> list[Verdict]:
    return [
        verdict
        for case in TENANTS
        for verdict in (
            at_least(f"least share, {case}", found.estimate(case, "least"), 0.9, 1, 3),
            at_most(f"largest share, {case}", found.estimate(case, "most"), 1.1, 1, 3),
        )
    ]


tenants = Scenario(
    "tenants",
    "Backlogged tenants of one class: rows in time over the fair share (1 is fair).",
    [Case(name, run) for name, run in TENANTS.items()],
    (
        Column("least", "least share", 1, 3),
        Column("most", "largest share", 1, 3),
        Column("goodput", "goodput, %", PERCENT),
    ),
    3.0,
    _judge_tenants,
)
