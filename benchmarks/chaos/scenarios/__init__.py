"""Every scenario by name, in the order in which they are run."""

from __future__ import annotations

from benchmarks.chaos.scenario import Scenario, together
from benchmarks.chaos.scenarios import (
    collecting,
    files,
    publishers,
    redis_servers,
    replicas,
    weights,
)
from benchmarks.chaos.stores import FilePlace

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for module in (publishers, files, redis_servers, weights, replicas, collecting)
    for scenario in module.SCENARIOS
}

_SHORT = [scenario for scenario in SCENARIOS.values() if scenario.short]
# The quickest and most telling ones; those on files share one start.
SHORT: tuple[Scenario, ...] = (
    together("short-files", [scenario for scenario in _SHORT if scenario.place is FilePlace]),
    *(scenario for scenario in _SHORT if scenario.place is not FilePlace),
)
