"""Clients that ask three times more: does the system come back after a burst?"""

from __future__ import annotations

from collections import defaultdict
from functools import partial

from benchmarks.simulate.arrivals import step
from benchmarks.simulate.clients import Retries
from benchmarks.simulate.policies import OURS, POLICIES
from benchmarks.simulate.request import Request
from benchmarks.simulate.scenario import (
    Case,
    Column,
    Found,
    Scenario,
    Verdict,
    at_most,
)
from benchmarks.simulate.scenarios.overload import BURST_FROM_S, BURST_TO_S
from benchmarks.simulate.scenarios.steady import REFERENCE, gateway_of
from benchmarks.simulate.world import World

BASE_LOAD, BURST_LOAD = 0.7, 4.0
BIN_S = 0.05
# Of the first tries of a bin in time: recovered.
RECOVERED = 0.99
MOST_RECOVERY_S = 1.0


def run_retries(seed: int, seconds: float, *, policy: str) -> dict[str, float]:
    """Seconds until first tries are in time again, and for good; tries for each request."""
    world = World(REFERENCE, seed)
    gateway = gateway_of(policy)(world)
    clients = Retries(world, gateway)
    capacity = REFERENCE.capacity
    world.ask(
        step(
            world.draw("arrivals"),
            BASE_LOAD * capacity,
            BURST_LOAD * capacity,
            BURST_FROM_S,
            BURST_TO_S,
        ),
        gateway,
        clients=clients,
    )
    world.clock.run(seconds)
    tries = len(world.requests) + len(clients.tried)
    after = [r for r in clients.tried if r.arrived_at >= BURST_TO_S + 1]
    fresh = [r for r in world.requests if r.arrived_at >= BURST_TO_S + 1]
    return {
        "recovery_s": _recovery_s(world.requests, seconds - REFERENCE.slo_s),
        "tries": tries / len(world.requests),
        "tries_later": 1 + len(after) / max(len(fresh), 1),
    }


def _recovery_s(requests: list[Request], end_s: float) -> float:
    """From the end of the burst until after the last bin in which too few were in time."""
    good: defaultdict[int, int] = defaultdict(int)
    count: defaultdict[int, int] = defaultdict(int)
    for request in requests:
        if BURST_TO_S <= request.arrived_at < end_s:
            at = int((request.arrived_at - BURST_TO_S) / BIN_S)
            count[at] += 1
            good[at] += request.in_time
    bad = [at for at in count if good[at] < RECOVERED * count[at]]
    return (max(bad) + 1) * BIN_S if bad else 0.0


def _judge(found: Found) -> list[Verdict]:
    return [
        at_most(
            "recovery with clients that try 4 times, s",
            found.estimate(OURS, "recovery_s"),
            MOST_RECOVERY_S,
            1,
            2,
        ),
        at_most(
            "tries for each request a second later",
            found.estimate(OURS, "tries_later"),
            1.1,
            1,
            3,
        ),
    ]


retries = Scenario(
    "retries",
    f"Load {BASE_LOAD}, {BURST_LOAD:g} for a second; clients try 3 times more after a loss or once "
    "overdue. Recovered: 99 % of first tries are in time for good. A baseline that is not by the "
    "end shows the rest of the time.",
    [Case(policy, partial(run_retries, policy=policy)) for policy in POLICIES],
    (
        Column("recovery_s", "recovery s", 1, 2),
        Column("tries", "tries a request", 1, 2),
        Column("tries_later", "tries a request, 1 s after", 1, 2),
    ),
    6.0,
    _judge,
)
