"""Replicas that are slow, die, stop for a while, or fail what they get."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from benchmarks.simulate.gateway import Headrace
from benchmarks.simulate.outcome import Outcome
from benchmarks.simulate.policies import BALANCERS, OURS
from benchmarks.simulate.scenario import (
    IN_SLO,
    LATE,
    P50,
    P99,
    PERCENT,
    USUAL,
    Case,
    Column,
    Found,
    Scenario,
    Verdict,
    at_least,
    at_most,
)
from benchmarks.simulate.scenarios.steady import (
    REFERENCE,
    Window,
    figures_of,
    gateway_of,
    run_steady,
    steady_arrivals,
)
from benchmarks.simulate.world import World

SLOW_FACTOR = 10.0
LOAD = 0.6
HEALTHY = "headrace, all healthy"
THREE = "headrace, three healthy replicas, as many requests"
# When a replica dies or stops, and how long.
DOWN_AT_S, DOWN_S = 1.5, 1.0
STOCK_SPENT_S = 3.0
STOPPED_S = 2.0


def slow_down(world: World) -> None:
    """The first replica is slow from the start."""
    world.replicas[0].factor = SLOW_FACTOR


def _three() -> partial[dict[str, float]]:
    plant = replace(REFERENCE, replicas=3)
    load = LOAD * REFERENCE.capacity / plant.capacity
    return partial(run_steady, policy=OURS, load=load, plant=plant)


def _judge_slow(found: Found) -> list[Verdict]:
    return [
        at_least(
            "in SLO with a slow replica, %", found.estimate(OURS, "in_slo"), 0.998, PERCENT, 2
        ),
        # The slow one cannot answer in time at all, so three healthy ones are what is left. (1.3 of
        # four healthy ones would be less than those three can do.)
        at_most(
            "p99 with a slow replica, of three healthy ones'",
            found.ratio(OURS, THREE, "p99_ms"),
            1.05,
            1,
            2,
        ),
        at_most(
            "p99 with a slow replica, of four healthy ones'",
            found.ratio(OURS, HEALTHY, "p99_ms"),
            1.7,
            1,
            2,
        ),
    ]


slow = Scenario(
    "slow",
    "One of four replicas 10 times slow, load 0.6 of all four; private queues or a central one.",
    [
        Case(name, partial(run_steady, policy=name, load=LOAD, prepare=slow_down))
        for name in BALANCERS
    ]
    + [Case(HEALTHY, partial(run_steady, policy=OURS, load=LOAD)), Case(THREE, _three())],
    (IN_SLO, LATE, P50, P99),
    5.0,
    _judge_slow,
)


def run_killed(
    seed: int, seconds: float, *, policy: str, load: float, times: int
) -> dict[str, float]:
    """A replica dies mid-batch `times` times, and comes back a second later each time."""
    world = World(REFERENCE, seed)
    gateway = gateway_of(policy)(world)
    draw = world.draw("kills")
    for at_s in _moments(draw.random(), times, seconds):
        replica = draw.choice(world.replicas)
        world.clock.at(at_s, replica.kill)
        world.clock.at(at_s + DOWN_S / times, replica.revive)
    world.ask(steady_arrivals(world, load), gateway)
    world.clock.run(seconds)
    outcome = Outcome.of(world.requests, 1.0, seconds - 0.1)
    return {
        **outcome.figures(REFERENCE.capacity),
        "failed": outcome.losses.get("FAILED", 0) + outcome.losses.get("LATE", 0),
        "lost": outcome.requests - len(outcome.latencies),
    }


def _moments(phase: float, times: int, seconds: float) -> Iterator[float]:
    """Evenly spread over what is left after a second, each as far into its part."""
    part_s = (seconds - 1.2) / times
    return (1.0 + (at + 0.5 * phase) * part_s for at in range(times))


def _judge_killed(found: Found) -> list[Verdict]:
    return [
        at_most("failed requests with a replica killed", found.estimate(OURS, "failed"), 0.0, 1, 0)
    ]


killed = Scenario(
    "killed",
    "A replica is killed mid-batch and comes back, five times, load 0.5; what was under way is "
    "sent again at its original deadline.",
    [
        Case(name, partial(run_killed, policy=name, load=0.5, times=5))
        for name in ("central queue", OURS)
    ],
    (
        Column("failed", "failed or late in queue", 1, 1),
        Column("lost", "without an answer", 1, 1),
        *USUAL[1:],
    ),
    5.0,
    _judge_killed,
)


def run_stopped(seed: int, seconds: float, *, policy: str, load: float) -> dict[str, float]:
    """A replica keeps what it has for seconds and then goes on."""
    world = World(REFERENCE, seed)
    gateway = gateway_of(policy)(world)
    replica = world.replicas[0]
    world.clock.at(DOWN_AT_S, replica.stop)
    world.clock.at(DOWN_AT_S + STOPPED_S, replica.go_on)
    world.ask(steady_arrivals(world, load), gateway)
    world.clock.run(seconds)
    window = Window(DOWN_AT_S - 0.1, seconds - 0.1)
    bad = [
        request
        for request in world.requests
        if not request.in_time and window.begin_s <= request.arrived_at < window.end_s
    ]
    return {**figures_of(world, window), "bad": len(bad)}


def _judge_stopped(found: Found) -> list[Verdict]:
    # What it had when it stopped, one batch, cannot be saved: the next is not sent to it.
    return [
        at_most(
            "requests not in SLO with a replica stopped (one batch)",
            found.estimate(OURS, "bad"),
            REFERENCE.max_rows,
            1,
            1,
        )
    ]


stopped = Scenario(
    "stopped",
    "A replica is stopped for 2 s and goes on, load 0.5.",
    [Case(name, partial(run_stopped, policy=name, load=0.5)) for name in BALANCERS],
    (Column("bad", "not in SLO", 1, 1), *USUAL[1:]),
    5.0,
    _judge_stopped,
)


def run_failing(seed: int, seconds: float, *, load: float, count: int) -> dict[str, float]:
    """`count` of four replicas fail every batch, and health checks have not noticed."""
    world = World(REFERENCE, seed)
    gateway = Headrace(world)

    def fail() -> None:
        for replica in world.replicas[:count]:
            replica.failing = True

    world.clock.at(1.0, fail)
    world.ask(steady_arrivals(world, load), gateway)
    # The stock of tokens that covers crashes is spent by then.
    world.clock.run(STOCK_SPENT_S)
    sent, again = gateway.sent, gateway.sent_again
    world.clock.run(seconds)
    more, more_again = gateway.sent - sent, gateway.sent_again - again
    outcome = Outcome.of(world.requests, 1.0, seconds - 0.1)
    return {
        **outcome.figures(REFERENCE.capacity),
        "amplification": more / max(more - more_again, 1),
    }


def _judge_failing(found: Found) -> list[Verdict]:
    return [
        at_most(
            f"batches sent, of those meant, {case}",
            found.estimate(case, "amplification"),
            1.1,
            1,
            3,
        )
        for case in found.by_case
    ]


failing = Scenario(
    "failing",
    "Replicas that take their time and fail every batch from 1 s on, before any health check "
    "notices; load 0.5. Retries must not multiply the load once their "
    "stock of 100 tokens is spent.",
    [
        Case(f"{count} of 4 fail", partial(run_failing, load=0.5, count=count))
        for count in (1, 2, 4)
    ],
    (Column("amplification", "batches sent / meant", 1, 3), IN_SLO, LATE),
    8.0,
    _judge_failing,
)
