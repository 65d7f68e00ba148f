"""All scenarios by name, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.simulate.scenario import Scenario
from benchmarks.simulate.scenarios.failures import failing, killed, slow, stopped
from benchmarks.simulate.scenarios.latency import latency
from benchmarks.simulate.scenarios.learning import learning, noise
from benchmarks.simulate.scenarios.overload import burst, goodput
from benchmarks.simulate.scenarios.plants import constants, models, rows
from benchmarks.simulate.scenarios.retries import retries
from benchmarks.simulate.scenarios.scale import gateways, replicas
from benchmarks.simulate.scenarios.sharing import flood, tenants
from benchmarks.simulate.scenarios.traces import traces

SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        goodput,
        latency,
        burst,
        slow,
        killed,
        stopped,
        failing,
        flood,
        tenants,
        retries,
        learning,
        noise,
        rows,
        models,
        constants,
        traces,
        replicas,
        gateways,
    )
}
