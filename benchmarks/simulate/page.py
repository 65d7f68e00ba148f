"""The page of the documentation that shows a run: what people wrote, then its tables; its plots."""

from __future__ import annotations

from pathlib import Path

from benchmarks.simulate.plots import draw_all
from benchmarks.simulate.results import Results

PAGE = "scheduling-simulation.md"
PLOTS = "scheduling"
BEGIN = "<!-- from here on written by `python -m benchmarks.simulate --docs docs` -->"


def write_page(results: Results, docs: Path) -> None:
    """Keeps what people wrote above the mark and writes the rest anew. Raises OSError."""
    page = docs / PAGE
    written = page.read_text().partition(BEGIN)[0] if page.exists() else "# Simulation\n\n"
    draw_all(results.results, docs / PLOTS)
    page.write_text(f"{written}{BEGIN}\n\n{results.markdown()}")
