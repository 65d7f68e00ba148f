"""What is left of the capacity when more is offered, and how soon a burst is over."""

from __future__ import annotations

from functools import partial

from benchmarks.simulate.arrivals import step
from benchmarks.simulate.outcome import Outcome
from benchmarks.simulate.policies import OURS, POLICIES
from benchmarks.simulate.scenario import (
    GIVEN_UP,
    PERCENT,
    REFUSED,
    USUAL,
    Case,
    Column,
    Found,
    Scenario,
    Verdict,
    at_least,
    at_most,
)
from benchmarks.simulate.scenarios.steady import REFERENCE, gateway_of, run_steady
from benchmarks.simulate.world import World

LOADS = (0.05, 0.5, 0.95, 1.0, 1.1, 2.0, 5.0, 10.0)
JUDGED = (1.0, 2.0, 5.0, 10.0)
LEAST_GOODPUT = 0.97
MOST_LATE = 0.001
BURST_FROM_S, BURST_TO_S = 1.0, 2.0
MILLISECONDS = 1000


def name_at(policy: str, load: float) -> str:
    """Of the case of a policy at a load."""
    return f"{policy} at {load:g}x"


def _judge_goodput(found: Found) -> list[Verdict]:
    verdicts = []
    for load in JUDGED:
        case = name_at(OURS, load)
        goodput, late = found.estimate(case, "goodput"), found.estimate(case, "late")
        # At 1x no more is offered than the capacity, and chance offers less at times.
        bound = LEAST_GOODPUT
        verdicts.append(at_least(f"goodput at {load:g}x, %", goodput, bound, PERCENT))
        verdicts.append(at_most(f"late answers at {load:g}x, %", late, MOST_LATE, PERCENT, 3))
    return verdicts


goodput = Scenario(
    "goodput",
    "Answers within the SLO as a share of capacity N b*/l(b*), by offered load (Poisson).",
    [
        Case(name_at(policy, load), partial(run_steady, policy=policy, load=load))
        for policy in POLICIES
        for load in LOADS
    ],
    (*USUAL, REFUSED, GIVEN_UP, Column("batch_rows", "rows a batch")),
    3.0,
    _judge_goodput,
)


def run_burst(seed: int, seconds: float, *, policy: str, high: float) -> dict[str, float]:
    """Half the capacity, but `high` times it for a second; when the last request was lost."""
    world = World(REFERENCE, seed)
    gateway = gateway_of(policy)(world)
    capacity = REFERENCE.capacity
    world.ask(
        step(world.draw("arrivals"), 0.5 * capacity, high * capacity, BURST_FROM_S, BURST_TO_S),
        gateway,
    )
    world.clock.run(seconds)
    last_at = max(
        (
            request.arrived_at
            for request in world.requests
            if not request.in_time and request.due_at < seconds
        ),
        default=BURST_TO_S,
    )
    after = Outcome.of(world.requests, BURST_TO_S, seconds - REFERENCE.slo_s)
    during = Outcome.of(world.requests, BURST_FROM_S, BURST_TO_S)
    return {
        "recovery_ms": max(last_at - BURST_TO_S, 0.0) * MILLISECONDS,
        "burst_goodput": during.goodput / capacity,
        "in_slo_after": after.in_slo,
    }


def _judge_burst(found: Found) -> list[Verdict]:
    slo_ms = REFERENCE.slo_s * MILLISECONDS
    return [
        at_most("recovery after a 10x burst, ms", found.estimate(f"{OURS}", "recovery_ms"), slo_ms)
    ]


burst = Scenario(
    "burst",
    "Load 0.5, for one second 10: how long after the burst the last request is lost or late.",
    [Case(policy, partial(run_burst, policy=policy, high=10.0)) for policy in POLICIES],
    (
        Column("recovery_ms", "recovery ms"),
        Column("burst_goodput", "goodput in the burst, %", PERCENT),
        Column("in_slo_after", "% in SLO after it", PERCENT, 2),
    ),
    4.0,
    _judge_burst,
)
