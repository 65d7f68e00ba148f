"""What the policies learn of the replicas: how exactly, how soon, in spite of noise."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from benchmarks.simulate.gateway import Headrace
from benchmarks.simulate.policies import OURS
from benchmarks.simulate.replica import Speed
from benchmarks.simulate.scenario import (
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
from benchmarks.simulate.scenarios.steady import REFERENCE, run_steady, steady_arrivals
from benchmarks.simulate.world import Plant, World
from gateway.policy.latency import BatchLatency

BATCHES = 200
TOLERANCE = 0.05
CHECK_EVERY_S = 0.02
SLOWDOWN_AT_S = 3.0
SLOWDOWN = 2.0
# Sizes at which predictions are compared: the line as a whole, not its ends alone.
SIZES = (1, 16, 32, 64)


def run_learning(seed: int, seconds: float, *, load: float, noise: float) -> dict[str, float]:
    """Errors of what is learned after 200 batches, and seconds until a slowdown is learned."""
    plant = replace(REFERENCE, speed=Speed(noise=noise))
    world = World(plant, seed)
    gateway = Headrace(world)
    figures: dict[str, float] = {"relearned_s": seconds - SLOWDOWN_AT_S}
    good_since = float("inf")
    model = plant.key().model

    def slow_down() -> None:
        for replica in world.replicas:
            replica.factor = SLOWDOWN

    def check() -> None:
        nonlocal good_since
        now = world.clock.now
        learned = [gateway.speeds.latency(str(at), model) for at in range(plant.replicas)]
        if "alpha" not in figures and min(item.snapshot().batches for item in learned) >= BATCHES:
            figures.update(_errors(learned, plant))
        if now >= SLOWDOWN_AT_S:
            worst = max(_prediction_error(item, plant, SLOWDOWN) for item in learned)
            good_since = min(good_since, now) if worst <= TOLERANCE else float("inf")
            figures["relearned_s"] = min(good_since, seconds) - SLOWDOWN_AT_S
        world.clock.at(now + CHECK_EVERY_S, check)

    world.clock.at(0.0, check)
    world.clock.at(SLOWDOWN_AT_S, slow_down)
    world.ask(steady_arrivals(world, load), gateway)
    world.clock.run(seconds)
    return figures


def _errors(learned: list[BatchLatency], plant: Plant) -> dict[str, float]:
    """The worst relative error of any replica's intercept, slope and predictions."""
    alpha = max(abs(item.slowness * item.alpha_s / plant.speed.alpha_s - 1) for item in learned)
    beta = max(abs(item.slowness * item.beta_s / plant.speed.beta_s - 1) for item in learned)
    predicted = max(_prediction_error(item, plant, 1.0) for item in learned)
    return {"alpha": alpha, "beta": beta, "predicted": predicted}


def _prediction_error(latency: BatchLatency, plant: Plant, factor: float) -> float:
    return max(
        abs(latency.predict(rows) / (factor * plant.speed.seconds(rows)) - 1) for rows in SIZES
    )


LEARNING = {
    f"noise {noise:.0%}, load {load:g}": (load, noise)
    for noise in (0.0, 0.05)
    for load in (0.3, 0.6)
}


def _judge_learning(found: Found) -> list[Verdict]:
    verdicts = []
    for case, (_, noise) in LEARNING.items():
        if noise:
            continue
        for figure in ("alpha", "beta"):
            error = found.estimate(case, figure)
            verdicts.append(
                at_most(f"{figure} after {BATCHES} batches, % off, {case}", error, 0.05, PERCENT, 2)
            )
        relearned = found.estimate(case, "relearned_s")
        verdicts.append(at_most(f"re-learned after a slowdown, s, {case}", relearned, 2.0, 1, 2))
    return verdicts


learning = Scenario(
    "learning",
    f"Worst error of any of four replicas after {BATCHES} batches; all become twice as slow at "
    f"{SLOWDOWN_AT_S:g} s: when predictions for {SIZES} rows are within 5 % again, for good.",
    [
        Case(name, partial(run_learning, load=load, noise=noise))
        for name, (load, noise) in LEARNING.items()
    ],
    (
        Column("alpha", "alpha off, %", PERCENT, 2),
        Column("beta", "beta off, %", PERCENT, 2),
        Column("predicted", "prediction off, %", PERCENT, 2),
        Column("relearned_s", "re-learned, s", 1, 2),
    ),
    8.0,
    _judge_learning,
)

NOISES = (0.05, 0.2)
NOISE_LOADS = (0.5, 0.95, 2.0, 10.0)
NOISE_POLICIES = ("timer 5 ms", "while busy, window drop", OURS)


def _noisy(policy: str, noise: float, load: float) -> str:
    return f"{policy}, noise {noise:.0%}, at {load:g}x"


def _judge_noise(found: Found) -> list[Verdict]:
    verdicts = []
    for load in (2.0, 10.0):
        case = _noisy(OURS, 0.05, load)
        verdicts += [
            at_least(f"goodput, {case}, %", found.estimate(case, "goodput"), 0.97, PERCENT),
            at_most(f"late, {case}, %", found.estimate(case, "late"), 0.001, PERCENT, 3),
        ]
    return verdicts


noise = Scenario(
    "noise",
    "Batches take a random time (normal, relative deviation as named), learned from scratch.",
    [
        Case(
            _noisy(policy, deviation, load),
            partial(
                run_steady,
                policy=policy,
                load=load,
                plant=replace(REFERENCE, speed=Speed(noise=deviation)),
            ),
        )
        for deviation in NOISES
        for load in NOISE_LOADS
        for policy in NOISE_POLICIES
    ],
    USUAL,
    3.0,
    _judge_noise,
)
