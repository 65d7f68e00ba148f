"""A steady load: the one situation that most scenarios vary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.simulate.arrivals import PLAIN, Arrival, Kind, poisson
from benchmarks.simulate.gateway import Headrace
from benchmarks.simulate.outcome import Outcome, batch_rows
from benchmarks.simulate.policies import BALANCERS, POLICIES, Make
from benchmarks.simulate.world import Gateway, Plant, World

# Nothing is known of the replicas before, and nothing is late yet.
WARM_UP_S = 1.0
# Of a short run.
WARM_UP_SHARE = 0.3
LEAST_SLOS = 8

REFERENCE = Plant()
# What is done to a world before time passes.
Prepare = Callable[[World], None]


@dataclass(frozen=True, slots=True)
class Window:
    """The stretch that counts: not the beginning, nor what has no time left to be answered."""

    begin_s: float
    end_s: float

    @classmethod
    def of(cls, seconds: float, plant: Plant) -> Window:
        """Of a run of so many seconds."""
        begin_s = max(min(WARM_UP_S, WARM_UP_SHARE * seconds), 2 * plant.slo_s)
        return cls(begin_s, seconds - 2 * plant.slo_s)


def gateway_of(name: str) -> Make:
    """The policy or balancer of this name. Raises KeyError."""
    return POLICIES[name] if name in POLICIES else BALANCERS[name]


def steady_arrivals(world: World, load: float, kind: Kind = PLAIN) -> Iterator[Arrival]:
    """Poisson, `load` times the capacity in rows."""
    sample = world.draw("rows")
    rows = sum(kind.rows(sample) for _ in range(2000)) / 2000
    return poisson(world.draw("arrivals"), load * world.plant.capacity / rows, kind)


def run_steady(
    seed: int,
    seconds: float,
    *,
    policy: str,
    load: float,
    plant: Plant = REFERENCE,
    kind: Kind = PLAIN,
    prepare: Prepare | None = None,
) -> dict[str, float]:
    """The usual figures, and sizes of batches."""
    world = World(plant, seed)
    gateway = gateway_of(policy)(world)
    if prepare is not None:
        prepare(world)
    world.ask(steady_arrivals(world, load, kind), gateway)
    # Queues of a loose objective take long to fill.
    seconds = max(seconds, LEAST_SLOS * plant.slo_s)
    world.clock.run(seconds)
    window = Window.of(seconds, plant)
    return {
        **figures_of(world, window),
        **_gateway_figures(gateway),
    }


def figures_of(world: World, window: Window) -> dict[str, float]:
    """The usual figures of a stretch of time."""
    outcome = Outcome.of(world.requests, window.begin_s, window.end_s)
    sizes = batch_rows(world.replicas, window.begin_s, window.end_s)
    figures = outcome.figures(world.plant.capacity)
    if sizes:
        figures["batch_rows"] = sum(sizes) / len(sizes)
        figures["batch_rows_p10"] = sizes[len(sizes) // 10]
        figures["batch_rows_p90"] = sizes[len(sizes) * 9 // 10]
    return figures


def _gateway_figures(gateway: Gateway) -> dict[str, float]:
    if not isinstance(gateway, Headrace):
        return {}
    return {"probes": gateway.probes, "batches_sent": gateway.sent}
