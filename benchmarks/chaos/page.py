"""The table of docs/chaos.md: a row for each scenario, as it last went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.chaos.report import Outcome, closing_line
from benchmarks.chaos.scenarios import SCENARIOS

BEGIN = "<!-- from here on written by `python -m benchmarks.chaos --docs docs/chaos.md` -->"
HEADINGS = (
    "scenario",
    "injected",
    "facts checked",
    "calls, of them errors",
    "versions",
    "what status said",
    "result",
)


def write_page(outcomes: Sequence[Outcome], conditions: str, page: Path) -> None:
    """Keeps what people wrote above the mark, and the rows of scenarios that did not run."""
    written, _, generated = page.read_text().partition(BEGIN)
    rows = {
        line.split("|")[1].strip(): line for line in generated.splitlines() if line.startswith("|")
    }
    rows |= {outcome.name: _row(outcome) for outcome in outcomes}
    table = [_line(HEADINGS), "|---" * len(HEADINGS) + "|"]
    table += [rows[name] for name in SCENARIOS if name in rows]
    closing = closing_line(outcomes)
    page.write_text(f"{written}{BEGIN}\n\n{conditions}\n{closing}.\n\n" + "\n".join(table) + "\n")


def _row(outcome: Outcome) -> str:
    facts = sum(outcome.checked.values())
    return _line(
        (
            outcome.name,
            outcome.injected,
            f"{facts:,} of {' '.join(outcome.checked)}",
            f"{outcome.calls:,}, {outcome.failed_calls}",
            str(outcome.publications),
            outcome.status.replace("|", "/"),
            "held" if outcome.held else "; ".join(outcome.broken).replace("|", "/"),
        )
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
