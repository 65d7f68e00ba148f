"""The quickest and most telling faults of `make chaos`, judged as there."""

from __future__ import annotations

import pytest

from benchmarks.chaos.__main__ import run_scenario
from benchmarks.chaos.scenarios import SHORT

# Each is about twenty seconds of work; a machine that others use takes several times that.
pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]


@pytest.mark.parametrize("scenario", SHORT, ids=[scenario.name for scenario in SHORT])
def test_a_fault_under_load_breaks_no_invariant(scenario):
    outcome = run_scenario(scenario, seed=1)
    assert outcome.broken == (), outcome.record
