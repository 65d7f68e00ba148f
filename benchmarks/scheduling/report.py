"""What the scheduling benchmark found: JSON for programs, tables and a picture for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.report import conditions, table_of
from benchmarks.scheduling.learning import SLOWDOWN, Learned
from benchmarks.scheduling.plant import Plant
from benchmarks.scheduling.scenarios import Line

OFFERED_LOAD = "offered load"


@dataclass(slots=True)
class Report:
    """One run: on which plant, under which conditions, and what came out."""

    plant: Plant
    seconds: float
    lines: list[Line] = field(default_factory=list)
    learned: Learned | None = None
    conditions: Mapping[str, Any] = field(
        default_factory=lambda: conditions("benchmarks.scheduling")
    )

    def write(self, file: Path) -> None:
        """Writes the JSON file, making its directory. Raises OSError."""
        file.parent.mkdir(parents=True, exist_ok=True)
        found = dataclasses.asdict(self) | {"capacity_rows_per_s": self.plant.capacity}
        file.write_text(json.dumps(found, indent=2) + "\n")

    def print(self, console: Console) -> None:
        """Prints the conditions and the tables."""
        plant, where = self.plant, self.conditions
        console.print(
            f"{where['date']}: `{where['command']}` on {where['cores']} cores of {where['cpu']}, "
            f"load average {where['load_average_before']} before; {plant.replicas} replicas, "
            f"l(b) = {plant.alpha_ms:g} + {plant.beta_ms:g} b ms, at most {plant.most_rows} rows, "
            f"objective {plant.objective_ms:g} ms: capacity {plant.capacity:.0f} rows/s; "
            f"{self.seconds:g} s each. Goodput is what was answered within the objective, counted "
            "from the intended time at the client, as a share of the capacity.",
            soft_wrap=True,
            highlight=False,
        )
        console.print()
        console.print(_offered_table(self._of_load()))
        console.print(_scenario_table([line for line in self.lines if line not in self._of_load()]))
        if self.learned is not None:
            console.print(_learning_table(self.learned))

    def draw(self, file: Path) -> None:
        """Draws goodput and latency over offered load, a line for each policy."""
        figure: Any = import_module("matplotlib.figure").Figure(
            figsize=(10, 4), layout="constrained"
        )
        goodput, latency = figure.subplots(1, 2)
        for policy in dict.fromkeys(line.policy for line in self._of_load()):
            lines = [line for line in self._of_load() if line.policy == policy]
            offered = [line.offered for line in lines]
            goodput.plot(offered, [100 * line.goodput for line in lines], "o-", label=policy)
            latency.plot(offered, [line.p99_ms for line in lines], "o-", label=policy)
        goodput.set(ylabel="answered in time, % of capacity", ylim=(0, None))
        latency.set(ylabel="p99 of answers, ms", yscale="log")
        latency.axhline(self.plant.objective_ms, color="grey", linestyle=":", label="objective")
        for axes in (goodput, latency):
            axes.set(xlabel="offered load, times capacity", xscale="log")
            axes.legend()
            axes.grid(visible=True, alpha=0.3)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)

    def _of_load(self) -> list[Line]:
        return [line for line in self.lines if line.scenario == OFFERED_LOAD]


def _offered_table(lines: Sequence[Line]) -> Table:
    table = table_of(
        "policy", "offered", "goodput", "of requests", "late", "p50 ms", "p99 ms", "gateway us",
        "shed", "kept up",
    )  # fmt: skip
    for line in lines:
        table.add_row(
            line.policy,
            f"{line.offered:g}x",
            f"{line.goodput:.1%}",
            f"{line.in_time:.1%}",
            f"{line.late:.2%}",
            f"{line.p50_ms:.0f}",
            f"{line.p99_ms:.0f}",
            f"{line.gateway_us:.0f}",
            _counts(line.reasons or line.failed),
            "yes" if line.kept_up else "NO",
        )
    return table


def _scenario_table(lines: Sequence[Line]) -> Table:
    table = table_of(
        "scenario", "offered", "who", "requests", "in time", "late", "p50 ms", "p99 ms",
        "tries", "recovered after s", "failed",
    )  # fmt: skip
    for line in lines:
        table.add_row(
            line.scenario,
            f"{line.offered:g}x",
            line.who,
            str(line.requests),
            f"{line.in_time:.2%}",
            f"{line.late:.2%}",
            f"{line.p50_ms:.0f}",
            f"{line.p99_ms:.0f}",
            str(line.tries),
            "" if line.recovery_s is None else f"{line.recovery_s:.1f}",
            _counts(line.reasons or line.failed),
        )
    return table


def _learning_table(found: Learned) -> Table:
    table = table_of(
        "learned by the worst of the replicas",
        "alpha off",
        "beta off",
        "learned anew after batches",
        "in s",
    )
    table.add_row(
        f"after {found.batches} batches each; then a version {SLOWDOWN:g} times as slow",
        f"{found.alpha_off:.1%}",
        f"{found.beta_off:.1%}",
        "never" if found.relearned_batches is None else str(found.relearned_batches),
        "never" if found.relearned_s is None else f"{found.relearned_s:.1f}",
    )
    return table


def _counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items())) or "0"
