"""What a run of scenarios found: one JSON file for programs, Markdown tables for people."""

from __future__ import annotations

import dataclasses
import json
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from typing import Any

from benchmarks.cpu import cpu_name
from benchmarks.simulate.scenario import Column, Estimate, Found, Scenario, Verdict
from chassis.clock import wall_time_ms


@dataclass(frozen=True, slots=True)
class Result:
    """One scenario with its figures."""

    scenario: Scenario
    found: Found

    @property
    def verdicts(self) -> list[Verdict]:
        """Its targets, judged."""
        return self.scenario.judge(self.found)


@dataclass(frozen=True, slots=True)
class Results:
    """All scenarios of a run, and how it was run."""

    seeds: int
    conditions: Mapping[str, Any]
    results: list[Result] = field(default_factory=list)

    @property
    def missed(self) -> list[str]:
        """Targets that were not reached."""
        return [
            verdict.what
            for result in self.results
            for verdict in result.verdicts
            if not verdict.reached
        ]

    def write(self, directory: Path) -> None:
        """Writes simulation.json and simulation.md. Raises OSError."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "simulation.json").write_text(json.dumps(self._as_json(), indent=1) + "\n")
        (directory / "simulation.md").write_text(self.markdown())

    def markdown(self) -> str:
        """Conditions, targets and tables."""
        return "\n\n".join(self.sections().values()) + "\n"

    def sections(self) -> dict[str, str]:
        """The same by scenario, each with its heading and how it was run."""
        return {result.scenario.name: "\n".join(self._section(result)) for result in self.results}

    def _section(self, result: Result) -> Iterator[str]:
        yield from (f"## {result.scenario.name}", "", result.scenario.about, "")
        yield f"`{self.conditions['command']}`, {self.conditions['date']}: {self.seeds} seeds each;"
        yield "means over seeds, ± the half width of the 95 % confidence interval."
        if result.verdicts:
            yield ""
            yield from verdict_table(result.verdicts)
        yield ""
        yield from figure_table(result)

    def _as_json(self) -> dict[str, Any]:
        return {
            "seeds": self.seeds,
            "conditions": dict(self.conditions),
            "scenarios": {
                result.scenario.name: {
                    "about": result.scenario.about,
                    "seconds": result.scenario.seconds,
                    "cases": result.found.by_case,
                    "targets": [
                        {**dataclasses.asdict(verdict), "reached": verdict.reached}
                        for verdict in result.verdicts
                    ],
                }
                for result in self.results
            },
        }


def conditions() -> dict[str, Any]:
    """Date, command and machine; only CPU times depend on the machine."""
    date = datetime.fromtimestamp(wall_time_ms() / 1000, UTC)
    return {
        "date": date.date().isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks.simulate", *sys.argv[1:]]),
        "cpu": cpu_name(),
        "python": platform.python_version(),
    }


def shown(estimate: Estimate, scale: float, digits: int) -> str:
    """The mean, give or take; a dash where nothing was found."""
    if isnan(estimate.mean):
        return "-"
    mean = f"{estimate.mean * scale:,.{digits}f}"
    if isnan(estimate.half):
        return mean
    half = f"{estimate.half * scale:,.{digits}f}"
    return mean if not float(half.replace(",", "")) else f"{mean} ± {half}"


def verdict_table(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Lines of Markdown."""
    yield "| target | bound | found | |"
    yield "|---|---|---|---|"
    for verdict in verdicts:
        sign = "≥" if verdict.at_least else "≤"
        bound = f"{sign} {verdict.bound * verdict.scale:,.{verdict.digits}f}"
        found = shown(verdict.estimate, verdict.scale, verdict.digits)
        mark = "pass" if verdict.reached else "**miss**"
        yield f"| {verdict.what} | {bound} | {found} | {mark} |"


def figure_table(result: Result) -> Iterator[str]:
    """Lines of Markdown: a row for each case."""
    columns = result.scenario.columns
    yield " | ".join(["| case", *(column.title for column in columns)]) + " |"
    yield "|---" + "|---:" * len(columns) + "|"
    for case in result.found.by_case:
        cells = (_cell(result.found, case, column) for column in columns)
        yield " | ".join([f"| {case}", *cells]) + " |"


def _cell(found: Found, case: str, column: Column) -> str:
    return shown(found.estimate(case, column.figure), column.scale, column.digits)
