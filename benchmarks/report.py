"""What a run found: a JSON file for programs and Markdown tables for people."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmarks.bare import BareSpeed, batch_seconds
from benchmarks.cpu import cpu_name
from benchmarks.load import Outcome
from chassis.clock import wall_time_ms

# Of the widest table; a narrower terminal breaks lines, which loses nothing.
WIDTH = 156
PACKAGES = ("torch", "grpcio", "protobuf", "numpy", "uvloop")


@dataclass(frozen=True, slots=True)
class Point:
    """One load and its outcome.

    `via` is who was asked, "gateway" or "replica"; `rows` is what one request carries;
    `share_of_bare` is rows/s over what the bare loop gives, on cores of its own, at the batch size
    that was reached.
    """

    via: str
    rows: int
    outstanding: int
    outcome: Outcome
    share_of_bare: float


def point(
    via: str, rows: int, outstanding: int, outcome: Outcome, bare: Sequence[BareSpeed]
) -> Point:
    """The point, compared with the bare loop."""
    reached = outcome.rows_per_batch or rows
    share = outcome.requests_per_s * rows / (reached / batch_seconds(bare, reached))
    return Point(via, rows, outstanding, outcome, share)


@dataclass(frozen=True, slots=True)
class ModelReport:
    """Everything measured on one model; `parameters` counts elements."""

    model: str
    parameters: int
    max_batch_size: int
    bare: Sequence[BareSpeed]
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Report:
    """One run: under which conditions, with which settings, and what came out."""

    settings: Mapping[str, Any]
    models: list[ModelReport] = field(default_factory=list)
    conditions: Mapping[str, Any] = field(default_factory=lambda: conditions("benchmarks.serving"))

    @property
    def failed(self) -> int:
        """Requests that failed in all points."""
        return sum(
            sum(item.outcome.failures.values()) for model in self.models for item in model.points
        )

    def write(self, file: Path) -> None:
        """Writes the JSON file, making its directory. Raises OSError."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(dataclasses.asdict(self), indent=2, default=str) + "\n")

    def print(self, console: Console) -> None:
        """Prints the conditions and, for each model, its two tables."""
        console.print(_sentence(self.conditions, self.settings), soft_wrap=True)
        for model in self.models:
            size = f"{model.parameters:,} parameters, batch up to {model.max_batch_size}"
            console.print(f"\n### {model.model} ({size})\n", soft_wrap=True, markup=False)
            console.print(_bare_table(model.bare))
            console.print(_points_table(model.points))


def table_console() -> Console:
    """Standard output, wide enough for the tables whatever the terminal."""
    return Console(width=max(WIDTH, Console().width), highlight=False)


def conditions(module: str) -> dict[str, Any]:
    """Date, command, machine and versions, as they are when the run begins."""
    date = datetime.fromtimestamp(wall_time_ms() / 1000, UTC)
    return {
        "date": date.isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        # Above about 0 before anything was started: other work shares the cores.
        "load_average_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def _sentence(conditions: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {text}" for name, text in conditions["versions"].items())
    return (
        f"{conditions['date']}: `{conditions['command']}` on {conditions['cores']} cores of "
        f"{conditions['cpu']}, load average {conditions['load_average_before']} before; "
        f"Python {conditions['python']}, {versions}; {settings['replicas']} replica(s) of "
        f"{settings['threads']} thread(s), {settings['seconds']} s a point. "
        "µs are of CPU per answered request; rows/batch is as the gateway dispatched; "
        "other cores are those that other work kept busy meanwhile; the bare loop is counted on "
        "cores of its own (CPU time over threads), seen is what it took."
    )


def _bare_table(bare: Sequence[BareSpeed]) -> Table:
    table = table_of("bare loop, rows a batch", "ms a batch", "rows/s", "ms seen")
    for speed in bare:
        table.add_row(
            str(speed.rows),
            f"{speed.batch_s * 1e3:.3g}",
            f"{speed.rows_per_s:,.0f}",
            f"{speed.seen_s * 1e3:.3g}",
        )
    return table


def _points_table(points: Sequence[Point]) -> Table:
    table = table_of(
        "through",
        "outstanding",
        "rows/s",
        "p50 ms",
        "p99 ms",
        "rows/batch",
        "of bare",
        "failed",
        "gateway µs",
        "replica µs",
        "client µs",
        "other cores",
    )
    for item in points:
        table.add_row(*_cells(item))
    return table


def _cells(item: Point) -> list[str]:
    outcome = item.outcome
    return [
        item.via if item.rows == 1 else f"{item.via}, {item.rows} rows",
        str(item.outstanding),
        f"{outcome.requests_per_s * item.rows:,.0f}",
        f"{outcome.p50_ms:.2f}",
        f"{outcome.p99_ms:.2f}",
        f"{outcome.rows_per_batch or item.rows:.1f}",
        f"{item.share_of_bare:.0%}",
        str(sum(outcome.failures.values())),
        *(_microseconds(outcome.cpu_us, role) for role in ("gateway", "replica", "client")),
        f"{outcome.other_cores:.1f}",
    ]


def _microseconds(cpu_us: Mapping[str, float], role: str) -> str:
    return f"{cpu_us[role]:,.0f}" if role in cpu_us else "-"


def table_of(*headers: str) -> Table:
    """A Markdown table with these columns, all but the first to the right."""
    table = Table(box=MARKDOWN)
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index else "left", no_wrap=True)
    return table
