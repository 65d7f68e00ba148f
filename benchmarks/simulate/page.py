"""The page of the documentation that shows a run: what people wrote, then its tables; its plots."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.simulate.catalog import SCENARIOS
from benchmarks.simulate.plots import draw_all
from benchmarks.simulate.results import Results

PAGE = "scheduling-simulation.md"
PLOTS = "scheduling"
# Before each heading.
SECTION = re.compile(r"^(?=## )", re.MULTILINE)
BEGIN = "<!-- from here on written by `python -m benchmarks.simulate --docs docs` -->"


def write_page(results: Results, docs: Path) -> None:
    """Keeps what people wrote above the mark, and the sections of scenarios that did not run.

    Raises OSError.
    """
    page = docs / PAGE
    text = page.read_text() if page.exists() else "# Simulation\n\n"
    written, _, generated = text.partition(BEGIN)
    kept = [part.strip() for part in SECTION.split(generated)[1:]]
    sections = {part.split(maxsplit=2)[1]: part for part in kept} | results.sections()
    ordered = [sections.pop(name) for name in SCENARIOS if name in sections]
    draw_all(results.results, docs / PLOTS)
    parts = "\n\n".join([*ordered, *sections.values()])
    page.write_text(f"{written}{BEGIN}\n\n{parts}\n")
