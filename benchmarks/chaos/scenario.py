"""What a scenario is: a store, an extent, and what is done to them under load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.scene import Extent, Scene
from benchmarks.chaos.stores import Place

Run = Callable[[Scene], None]
PlaceMaker = Callable[[Path], Place]


@dataclass(frozen=True)
class Scenario:
    """`injected` is a sentence for a person; `short` puts it into what `make test` runs."""

    name: str
    injected: str
    place: PlaceMaker
    run: Run
    extent: Extent = field(default_factory=Extent)
    short: bool = False


def together(name: str, scenarios: Sequence[Scenario]) -> Scenario:
    """Several faults, one after another, on one system that is started once."""

    def run(scene: Scene) -> None:
        for scenario in scenarios:
            scenario.run(scene)

    names = ", ".join(scenario.name for scenario in scenarios)
    return Scenario(name, names, scenarios[0].place, run)
