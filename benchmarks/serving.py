"""`make bench`: how fast the stack serves, and what a request costs, beside a bare torch loop.

For each model: the bare loop; then a store with one version, its replicas and a gateway as
processes, and a closed loop of single-row requests through the gateway; then the first replica
alone, with single rows and with full batches, which is the most that a gateway could get from it.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.bare import run_bare
from benchmarks.interrupts import raise_on_interrupt
from benchmarks.load import Load, run_load
from benchmarks.report import ModelReport, Point, Report, point, table_console
from benchmarks.settings import MODELS, Settings, parser, settings_of
from benchmarks.stack import Stack
from headrace.model import Model, load_model

BARE_SIZES = (1, 8, 32, 64)
# Of the seconds of a point: the loop alone is steady sooner than the system.
BARE_SHARE = 0.2
BARE_AT_MOST_S = 2.0
WARM_UP_S = 1.0


class Benchmark:
    """Runs the settings model by model and tells `progress` of each step."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._task = progress.add_task("starting", total=settings.steps)

    def run(self) -> Report:
        """Measures every model."""
        report = Report(dataclasses.asdict(self._settings))
        for name in self._settings.models:
            with tempfile.TemporaryDirectory(prefix="headrace-bench-") as directory:
                report.models.append(self._model(name, Path(directory)))
        return report

    def _model(self, name: str, directory: Path) -> ModelReport:
        model, settings = load_model(MODELS[name]), self._settings
        self._next(f"{name}: bare loop")
        bare = run_bare(
            MODELS[name],
            [size for size in BARE_SIZES if size <= model.max_batch_size],
            threads=settings.threads,
            seconds=min(settings.seconds * BARE_SHARE, BARE_AT_MOST_S),
        )
        self._done(f"{name}: bare loop, {bare[-1].rows_per_s:,.0f} rows/s in batches")
        parameters = sum(weights.numel() for weights in model.build().parameters())
        report = ModelReport(name, parameters, model.max_batch_size, bare, [])
        self._next(f"{name}: starting the stack")
        with self._stack(model, directory) as stack:
            self._done(f"{name}: stack started")
            points = [
                self._point(stack, report, *load) for load in settings.loads(model.max_batch_size)
            ]
        return dataclasses.replace(report, points=points)

    def _stack(self, model: Model, directory: Path) -> Stack:
        return Stack(
            model,
            directory,
            replicas=self._settings.replicas,
            threads=self._settings.threads,
            gateway_settings=self._settings.of_service("gateway"),
            replica_settings=self._settings.of_service("replica"),
        )

    def _point(
        self, stack: Stack, report: ModelReport, via: str, rows: int, outstanding: int
    ) -> Point:
        what = f"{report.model}: {via}, {rows} row(s) a request, {outstanding} outstanding"
        self._next(what)
        outcome = run_load(self._load(stack, via, rows, outstanding))
        self._done(f"{what}: {outcome.requests_per_s * rows:,.0f} rows/s")
        return point(via, rows, outstanding, outcome, report.bare)

    def _load(self, stack: Stack, via: str, rows: int, outstanding: int) -> Load:
        through_gateway = via == "gateway"
        replica = {"replica": stack.replica_pids}
        return Load(
            address=(stack.gateway if through_gateway else stack.replica).address(),
            model=stack.model.name,
            samples=str(stack.samples),
            rows=rows,
            outstanding=outstanding,
            seconds=self._settings.seconds,
            warm_up_s=min(WARM_UP_S, self._settings.seconds),
            processes={"gateway": [stack.gateway.pid], **replica} if through_gateway else replica,
            admin=stack.gateway.address("admin_port") if through_gateway else "",
        )

    def _next(self, what: str) -> None:
        self._progress.update(self._task, description=what)

    def _done(self, what: str) -> None:
        self._progress.console.print(what, highlight=False)
        self._progress.advance(self._task)


def progress_bar() -> Progress:
    """On standard error, standard output is for the tables. A line a step without a terminal."""
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs, prints, writes; 130 if interrupted, 1 if a request failed or a process did not run."""
    options = parser().parse_args(argv)
    settings = settings_of(options)
    torch.set_num_threads(1)
    raise_on_interrupt()
    try:
        with progress_bar() as progress:
            report = Benchmark(settings, progress).run()
    except KeyboardInterrupt:
        return 130
    except (RuntimeError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    report.write(options.json)
    report.print(table_console())
    print(f"\nwritten to {options.json}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
