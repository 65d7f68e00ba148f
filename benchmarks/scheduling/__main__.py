"""`python -m benchmarks.scheduling`: measures, prints and writes what came out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.interrupts import raise_on_interrupt
from benchmarks.report import table_console
from benchmarks.scheduling.learning import measure_learning
from benchmarks.scheduling.plant import Plant
from benchmarks.scheduling.report import Report
from benchmarks.scheduling.scenarios import OFFERED, Bench, measurements

RESULTS = Path("bench-results/scheduling.json")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all measurements; exit code 130 if interrupted, with what there is."""
    options = _parser().parse_args(argv)
    plant = Plant(
        alpha_ms=options.alpha_ms,
        beta_ms=options.beta_ms,
        most_rows=options.rows,
        objective_ms=options.objective_ms,
    )
    report, bench = Report(plant, options.seconds), Bench(plant)
    planned = list(
        measurements(
            options.seconds,
            baselines=options.baselines,
            failures=options.failures,
            loads=options.offered,
        )
    )
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )  # fmt: skip
    raise_on_interrupt()
    interrupted = False
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=len(planned))
        try:
            for what in planned:
                label = f"{what.scenario} {what.offered:g}x, {what.policy}"
                progress.update(task, description=label)
                report.lines.extend(bench.run(what))
                progress.advance(task)
            if options.failures:
                progress.update(task, description="learning")
                report.learned = measure_learning()
        except KeyboardInterrupt:
            interrupted = True
    report.print(table_console())
    report.write(options.json)
    if options.plot is not None:
        report.draw(options.plot)
    print(f"written to {options.json}", file=sys.stderr)
    return 130 if interrupted else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.scheduling", description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="counted of each load (15)")
    plant = Plant()
    for name, kind, default, meaning in (
        ("--alpha-ms", float, plant.alpha_ms, "a batch takes, and"),
        ("--beta-ms", float, plant.beta_ms, "more for each row"),
        ("--rows", int, plant.most_rows, "of a batch at most"),
        ("--objective-ms", float, plant.objective_ms, "by when a request has to be answered"),
    ):
        parser.add_argument(name, type=kind, default=default, help=f"{meaning} ({default:g})")
    parser.add_argument(
        "--offered",
        type=float,
        nargs="+",
        default=OFFERED,
        metavar="TIMES",
        help="loads, in multiples of the capacity (all)",
    )
    parser.add_argument(
        "--baselines",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure the baselines' gateways too",
    )
    parser.add_argument(
        "--failures",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure slow, killed and stopped replicas, floods and retries too",
    )
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"({RESULTS})")
    parser.add_argument("--plot", type=Path, help="draw goodput and latency over load: .svg, .png")
    return parser


if __name__ == "__main__":
    sys.exit(main())
