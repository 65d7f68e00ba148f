"""How soon a gateway knows what batches take: from nothing, and after a version twice as slow."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from benchmarks.scheduling.plant import MODEL, Plant, Running, running
from headrace.cli.calls import GATEWAY_ADMIN, calling
from headrace.load.arrivals import Arrivals, Step
from headrace.load.plan import LoadPlan
from headrace.load.run import measure
from protos.headrace.v1 import gateway_pb2

# Batches long enough that messages take a small part of them, short enough that many run.
PLANT = Plant(alpha_ms=100.0, beta_ms=12.5, objective_ms=700.0)
# Of the capacity: batches of several sizes, and room for replicas half as fast.
LOAD = 0.35
BATCHES = 200
SLOWDOWN = 2.0
# Sizes at which predictions are compared, and how far off they may be.
SIZES = (1, 8, 16)
TOLERANCE = 0.05
POLL_S = 0.02
WATCHED_S = 15.0
LEARNS_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Learned:
    """Shares by which the worst of the replicas is off what the model sleeps; how it learns anew.

    Batches at the new speed until all its predictions have risen by what the model sleeps more, for
    good, as far as was watched, and seconds since the first of them was answered; None if they
    never had.
    """

    batches: int
    alpha_off: float
    beta_off: float
    relearned_batches: int | None
    relearned_s: float | None


@dataclass(slots=True)
class _Change:
    """What is predicted for one replica, from before the slower version on."""

    before: gateway_pb2.ModelSpeed
    plant: Plant
    # When, and after how many batches, the prediction was last the old one, and first the new one.
    old: tuple[float, int] = (0.0, 0)
    new: tuple[float, int] | None = None

    def see(self, speed: gateway_pb2.ModelSpeed, now: float) -> None:
        """What is predicted now."""
        if self._rose(speed, 0.0):
            self.old = (now, speed.batches)
        if not self._rose(speed, SLOWDOWN - 1):
            self.new = None
        elif self.new is None:
            self.new = (now, speed.batches)

    def _rose(self, speed: gateway_pb2.ModelSpeed, times: float) -> bool:
        """Whether predictions of all sizes rose by so many times what the model slept before."""
        for rows in SIZES:
            more_ms = times * (self.plant.alpha_ms + self.plant.beta_ms * rows)
            expected_ms = _predicted_ms(self.before, rows) + more_ms
            if abs(_predicted_ms(speed, rows) / expected_ms - 1) > TOLERANCE:
                return False
        return True


def measure_learning(plant: Plant = PLANT, *, watched_s: float = WATCHED_S) -> Learned:
    """On a gateway that knows nothing yet; watches it for so long after the slower version."""
    with running(plant, "headrace") as stack:
        return asyncio.run(_measured(stack, plant, watched_s))


async def _measured(stack: Running, plant: Plant, watched_s: float) -> Learned:
    assert stack.gateway is not None
    plan = LoadPlan(
        address=stack.gateway.address(),
        model=MODEL,
        arrivals=Arrivals((Step(LOAD * plant.capacity, LEARNS_WITHIN_S + watched_s),)),
        seed=1,
    )
    done = asyncio.Event()
    load = asyncio.create_task(measure(plan, stop=done))
    try:
        return await asyncio.to_thread(_watch, stack, plant, watched_s)
    finally:
        done.set()
        await load


def _watch(stack: Running, plant: Plant, watched_s: float) -> Learned:
    """Blocks; looks at what the gateway has learned."""
    assert stack.gateway is not None
    with calling(stack.gateway.address("admin_port"), GATEWAY_ADMIN) as admin:

        def speeds() -> list[gateway_pb2.ModelSpeed]:
            status = admin.GetStatus(gateway_pb2.GatewayGetStatusRequest())
            return [speed for endpoint in status.endpoints for speed in endpoint.speeds]

        deadline = time.monotonic() + LEARNS_WITHIN_S
        while min(speed.batches for speed in speeds() or [gateway_pb2.ModelSpeed()]) < BATCHES:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {BATCHES} batches each within {LEARNS_WITHIN_S:g} s")
            time.sleep(POLL_S)
        before = speeds()
        changes = [_Change(speed, plant) for speed in before]
        stack.publish(SLOWDOWN)
        end = time.monotonic() + watched_s
        while (now := time.monotonic()) < end:
            for change, speed in zip(changes, speeds(), strict=True):
                change.see(speed, now)
            time.sleep(POLL_S)
    spans = [
        (change.new[0] - change.old[0], change.new[1] - change.old[1])
        for change in changes
        if change.new is not None
    ]
    learned = len(spans) == len(changes)
    return Learned(
        min(speed.batches for speed in before),
        max(abs(speed.slowness * speed.batch_ms / plant.alpha_ms - 1) for speed in before),
        max(abs(speed.slowness * speed.row_ms / plant.beta_ms - 1) for speed in before),
        max(batches for _, batches in spans) if learned else None,
        max(seconds for seconds, _ in spans) if learned else None,
    )


def _predicted_ms(speed: gateway_pb2.ModelSpeed, rows: int) -> float:
    return speed.slowness * (speed.batch_ms + speed.row_ms * rows)
