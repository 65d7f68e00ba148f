"""`python -m benchmarks.chaos`: runs scenarios; 1 where anything broke, 130 if interrupted."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
from rich.console import Console

from benchmarks.chaos.check import check
from benchmarks.chaos.page import write_page
from benchmarks.chaos.record import Record
from benchmarks.chaos.report import Outcome, outcome_of, print_outcomes, write_json
from benchmarks.chaos.scenario import Scenario
from benchmarks.chaos.scenarios import SCENARIOS, SHORT
from benchmarks.chaos.scene import NotInTime, Scene
from benchmarks.interrupts import raise_on_interrupt
from benchmarks.report import conditions
from chassis.errors import HeadraceError


def run_scenario(scenario: Scenario, seed: int, *, keep: bool = False) -> Outcome:
    """Runs one scenario in processes of its own and judges its record.

    The directory of one that broke is kept, and every one's with `keep`.
    """
    directory = Path(tempfile.mkdtemp(prefix=f"headrace-chaos-{scenario.name}-"))
    started, trouble = time.monotonic(), ""
    try:
        with Scene(directory, scenario.place, seed, scenario.extent) as scene:
            scenario.run(scene)
            scene.finish()
    except (NotInTime, RuntimeError, HeadraceError, grpc.RpcError) as error:
        trouble = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - started
    records = directory / "record"
    found, missing = check(records)
    outcome = outcome_of(
        scenario.name,
        scenario.injected,
        seed=seed,
        seconds=seconds,
        record=Record.read(records),
        found=found,
        missing=missing,
        trouble=trouble,
        kept=directory,
    )
    if outcome.held and not keep:
        shutil.rmtree(directory)
    return outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for; returns the exit code."""
    options = _parser().parse_args(argv)
    if options.list:
        for scenario in SCENARIOS.values():
            print(f"{scenario.name:24} {scenario.injected}")
        return 0
    unknown = [name for name in options.only if name not in SCENARIOS]
    if unknown:
        sys.stderr.write(f"error: no scenario {unknown[0]!r}; --list names them\n")
        return 2
    chosen = SHORT if options.short else [SCENARIOS[name] for name in options.only or SCENARIOS]
    # A run in the background ignores SIGINT, and SIGTERM would leave its processes behind.
    raise_on_interrupt()
    try:
        outcomes = _run(chosen, options)
    except KeyboardInterrupt:
        return 130
    return 0 if all(outcome.held for outcome in outcomes) else 1


def _run(chosen: Sequence[Scenario], options: argparse.Namespace) -> list[Outcome]:
    ran_under = _conditions()
    outcomes: list[Outcome] = []
    progress = Console(stderr=True)
    for number, scenario in enumerate(chosen, 1):
        outcome = run_scenario(scenario, options.seed, keep=options.keep)
        outcomes.append(outcome)
        said = "held" if outcome.held else "BROKEN " + "; ".join(outcome.broken)
        progress.print(
            f"{number}/{len(chosen)} {scenario.name}: {said} ({outcome.seconds:.0f} s)",
            soft_wrap=True,
            markup=False,
        )
        # After each: a run that is interrupted has not measured for nothing.
        write_json(outcomes, options.json)
    print_outcomes(outcomes, Console())
    # A page of promises that were kept: what broke is for whoever ran it.
    if options.docs and all(outcome.held for outcome in outcomes):
        write_page(outcomes, ran_under, options.docs)
    return outcomes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.chaos", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="repeatable")
    parser.add_argument("--short", action="store_true", help="the set that `make test` runs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    parser.add_argument("--keep", action="store_true", help="keep the records of what held too")
    parser.add_argument("--json", type=Path, default=Path("bench-results/chaos.json"))
    parser.add_argument("--docs", type=Path, help="where all held, renew this page: docs/chaos.md")
    return parser


def _conditions() -> str:
    """When, by which command and on what: before the first scenario."""
    found = conditions("benchmarks.chaos")
    return (
        f"{found['date']}: `{found['command']}` on {found['cores']} cores of {found['cpu']}, "
        f"load average {found['load_average_before']} before; Python {found['python']}."
    )


if __name__ == "__main__":
    sys.exit(main())
