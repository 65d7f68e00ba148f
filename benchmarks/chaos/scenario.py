"""What a scenario is: a store, an extent, and what is done to them under load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.scene import Extent, Scene
from benchmarks.chaos.stores import Place

Run = Callable[[Scene], None]
PlaceMaker = Callable[[Path], Place]


@dataclass(frozen=True)
class Scenario:
    """`injected` is a sentence for a person; `short` puts it into the set that `make test` runs."""

    name: str
    injected: str
    place: PlaceMaker
    run: Run
    extent: Extent = field(default_factory=Extent)
    short: bool = False
