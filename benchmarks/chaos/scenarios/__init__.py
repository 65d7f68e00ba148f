"""Every scenario by name, in the order in which they are run."""

from __future__ import annotations

from benchmarks.chaos.scenario import Scenario
from benchmarks.chaos.scenarios import files, publishers, redis_servers, replicas, weights

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for module in (publishers, files, redis_servers, weights, replicas)
    for scenario in module.SCENARIOS
}
