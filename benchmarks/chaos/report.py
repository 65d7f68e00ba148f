"""What a run of scenarios came to: a row each, for a person, for JSON, for the docs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.chaos.invariants import Verdict
from benchmarks.chaos.record import Record

SHOWN = 160


@dataclass(frozen=True, slots=True)
class Outcome:
    """One scenario: what broke (empty: nothing), and where its record is kept."""

    name: str
    injected: str
    seed: int
    seconds: float
    calls: int
    failed_calls: int
    publications: int
    checked: dict[str, int]
    status: str
    broken: tuple[str, ...]
    record: str

    @property
    def held(self) -> bool:
        """Whether every invariant held and the scenario took its course."""
        return not self.broken


def outcome_of(
    name: str,
    injected: str,
    *,
    seed: int,
    seconds: float,
    record: Record,
    found: Sequence[Verdict],
    missing: Sequence[str],
    trouble: str,
    kept: Path,
) -> Outcome:
    """Sums up one scenario; `trouble` is what kept it from taking its course."""
    broken = [str(verdict) for verdict in found if verdict.broken]
    broken += [f"{invariant} no evidence" for invariant in missing]
    calls = record.of("call")
    broken = [*([trouble] if trouble else []), *broken]
    return Outcome(
        name=name,
        injected=injected,
        seed=seed,
        seconds=round(seconds, 1),
        calls=len(calls),
        failed_calls=sum(call["code"] != "OK" for call in calls),
        publications=sum(line["acknowledged"] for line in record.of("publication")),
        checked={verdict.invariant: verdict.checked for verdict in found if verdict.checked},
        status=_status_said(record),
        broken=tuple(broken),
        record=str(kept) if broken else "",
    )


def print_outcomes(outcomes: Sequence[Outcome], console: Console) -> None:
    """The table and the closing counts."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("scenario", "injected", "invariants checked", "what status said", "result"):
        table.add_column(heading, overflow="fold")
    for outcome in outcomes:
        table.add_row(
            outcome.name,
            outcome.injected,
            " ".join(outcome.checked),
            outcome.status,
            "held" if outcome.held else "BROKEN",
        )
    console.print(table)
    for outcome in outcomes:
        for sentence in outcome.broken:
            console.print(f"{outcome.name}: {sentence}", soft_wrap=True, markup=False)
        if outcome.record:
            console.print(f"{outcome.name}: record kept at {outcome.record}", soft_wrap=True)
    console.print(closing_line(outcomes), soft_wrap=True)


def closing_line(outcomes: Sequence[Outcome]) -> str:
    """Counts over all scenarios."""
    broken = sum(not outcome.held for outcome in outcomes)
    facts = sum(sum(outcome.checked.values()) for outcome in outcomes)
    return (
        f"{len(outcomes)} scenarios, {broken} broken; {facts} facts checked over "
        f"{sum(outcome.calls for outcome in outcomes)} calls "
        f"({sum(outcome.failed_calls for outcome in outcomes)} ended in an error) and "
        f"{sum(outcome.publications for outcome in outcomes)} acknowledged publications; "
        f"{sum(outcome.seconds for outcome in outcomes):.0f} s"
    )


def write_json(outcomes: Sequence[Outcome], file: Path) -> None:
    """Everything in the table and more."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(outcome), "held": outcome.held} for outcome in outcomes]
    file.write_text(json.dumps(rows, indent=2))


def _status_said(record: Record) -> str:
    """The words in `headrace status` that the scenario waited for."""
    for expected in record.of("expect"):
        if expected["where"] != "status":
            continue
        pattern = re.compile(rf'[^"\n]*(?:{expected["text"]})[^"\n]*')
        for line in record.of("status"):
            found = pattern.search(line["text"]) if line["at"] >= expected["at"] else None
            if found:
                return found.group().strip()[:SHOWN]
    return ""
