"""Runs the cases of scenarios for many seeds, several at a time, each in a process of its own."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

from benchmarks.simulate.outcome import Figures
from benchmarks.simulate.results import Result
from benchmarks.simulate.scenario import Case, Found, RunCase, Scenario

# Told after each run: scenario, case, seed.
OnRun = Callable[[str, str, int], None]


@dataclass(frozen=True, slots=True)
class Extent:
    """How many seeds, from 1 on; simulated seconds as a share of a scenario's own; processes."""

    seeds: int
    share: float = 1.0
    processes: int = 1


def run_all(scenarios: Sequence[Scenario], extent: Extent, on_run: OnRun) -> Iterator[Result]:
    """The results, scenario by scenario. Raises what a run raises."""
    # Forked processes would inherit the threads of whoever shows progress.
    context = get_context("spawn")
    # The collector of cycles looks at a run's many objects again and again: three times the time.
    with ProcessPoolExecutor(extent.processes, context, initializer=gc.disable) as pool:
        for scenario in scenarios:
            yield Result(scenario, _run(scenario, extent, pool, on_run))


def _run(scenario: Scenario, extent: Extent, pool: ProcessPoolExecutor, on_run: OnRun) -> Found:
    seconds = scenario.seconds * extent.share
    runs: dict[Future[Figures], tuple[Case, int]] = {
        pool.submit(_run_case, case.run, seed, seconds): (case, seed)
        for case in scenario.cases
        for seed in range(1, extent.seeds + 1)
    }
    figures: dict[tuple[str, int], Figures] = {}
    for run in as_completed(runs):
        case, seed = runs[run]
        figures[case.name, seed] = run.result()
        on_run(scenario.name, case.name, seed)
    return Found(
        {
            case.name: [figures[case.name, seed] for seed in range(1, extent.seeds + 1)]
            for case in scenario.cases
        }
    )


def _run_case(run: RunCase, seed: int, seconds: float) -> Figures:
    try:
        return run(seed, seconds)
    finally:
        gc.collect()
