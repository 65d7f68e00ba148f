"""`make simulate`: runs scenarios with the gateway's own policy code and the baselines beside it.

Prints each target with what was found, and writes tables, plots and figures. Fails if a target is
missed, unless `--quick`: a short run shows that everything runs, not what it comes to.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.simulate.catalog import SCENARIOS
from benchmarks.simulate.page import write_page
from benchmarks.simulate.plots import draw_all
from benchmarks.simulate.results import Results, conditions, shown
from benchmarks.simulate.runs import Extent, run_all
from benchmarks.simulate.scenario import Scenario, Verdict
from benchmarks.simulate.scenarios.traces import recording
from chassis.errors import InvalidArgument

PURPOSE = "Simulates the gateway's scheduling: our policy code and what others do, by seeds."
QUICK_SEEDS, QUICK_SHARE = 2, 0.4


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="benchmarks.simulate", description=PURPOSE)
    found.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"of: {', '.join(SCENARIOS)} (all)"
    )
    found.add_argument("--seeds", type=_positive, default=10, help="runs of each case (10)")
    found.add_argument("--share", type=float, default=1.0, help="of each scenario's seconds (1)")
    found.add_argument("--quick", action="store_true", help="2 seeds, 0.4 of the seconds")
    found.add_argument("--processes", type=_positive, default=2, help="runs at a time (2)")
    found.add_argument(
        "--trace", type=Path, help="what `headrace load --record` wrote, to replay besides"
    )
    found.add_argument("--out", type=Path, default=Path("simulation-results"), help="directory")
    found.add_argument("--docs", type=Path, help="write the page and its plots here as well: docs")
    return found


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def main() -> int:
    """Runs what the command line names; the exit status."""
    options = parser().parse_args()
    try:
        scenarios = _chosen(options.scenarios, options.trace)
    except InvalidArgument as error:
        parser().error(error.message)
    extent = Extent(options.seeds, options.share, options.processes)
    if options.quick:
        extent = Extent(QUICK_SEEDS, QUICK_SHARE, options.processes)
    results = _run(scenarios, extent)
    results.write(options.out)
    draw_all(results.results, options.out)
    if options.docs:
        write_page(results, options.docs)
    return 0 if options.quick or not results.missed else 1


def _chosen(names: list[str], trace: Path | None) -> list[Scenario]:
    """The scenarios to run. Raises InvalidArgument (NO_SCENARIO, BAD_TRACE)."""
    for name in names:
        if name not in SCENARIOS:
            expected = ", ".join(SCENARIOS)
            raise InvalidArgument(
                "NO_SCENARIO", f"no scenario {name!r}; expected any of {expected}"
            )
    chosen = [SCENARIOS[name] for name in names or ([] if trace else SCENARIOS)]
    return [*chosen, recording(trace)] if trace else chosen


def _run(scenarios: list[Scenario], extent: Extent) -> Results:
    results = Results(extent.seeds, conditions())
    console, bars = Console(), Console(stderr=True)
    total = sum(len(scenario.cases) for scenario in scenarios) * extent.seeds
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=bars) as progress:
        task = progress.add_task("starting", total=total)

        def on_run(scenario: str, case: str, seed: int) -> None:
            progress.update(task, advance=1, description=f"{scenario}: {case}, seed {seed}"[:60])

        for result in run_all(scenarios, extent, on_run):
            results.results.append(result)
            console.print(f"{result.scenario.name}: {result.scenario.about}", soft_wrap=True)
            for verdict in result.verdicts:
                console.print(_line(verdict), soft_wrap=True)
    return results


def _line(verdict: Verdict) -> str:
    mark = "[green]pass[/]" if verdict.reached else "[red]MISS[/]"
    sign = "at least" if verdict.at_least else "at most"
    found = shown(verdict.estimate, verdict.scale, verdict.digits)
    bound = f"{verdict.bound * verdict.scale:.{verdict.digits}f}"
    return f"  {mark} {verdict.what}: {found} ({sign} {bound})"


if __name__ == "__main__":
    sys.exit(main())
