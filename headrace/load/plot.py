"""A picture of a load: rates and latencies over time, and the distribution of latencies.

matplotlib is an extra: ask `check_plot` before a load that would end without its picture.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from chassis.errors import FailedPrecondition, InvalidArgument
from headrace.load.mix import TOTAL
from headrace.load.results import LoadResult
from headrace.load.series import Line, lines

SUFFIXES = (".svg", ".png", ".pdf")
# Of a load without trouble the first three lie on each other.
RATE_STYLES = (("offered", "-"), ("answered", "--"), ("good", ":"), ("failed", "-"))
# Where the distribution is drawn, as fractions of requests that took longer.
SLOWER = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001)


def check_plot(file: Path) -> None:
    """Raises InvalidArgument (BAD_PLOT) on a suffix, FailedPrecondition (NO_PLOTS) without the
    extra.
    """
    if file.suffix not in SUFFIXES:
        raise InvalidArgument(
            "BAD_PLOT", f"plot {file}: expected a name that ends in one of {', '.join(SUFFIXES)}"
        )
    if find_spec("matplotlib") is None:
        raise FailedPrecondition(
            "NO_PLOTS",
            "a plot needs matplotlib: pip install 'headrace[plots]', or leave --plot out",
        )


def write_plot(result: LoadResult, file: Path) -> None:
    """Draws the result in the format of the file's suffix."""
    figure: Any = import_module("matplotlib.figure").Figure(figsize=(10, 10), layout="constrained")
    rates, latencies, distribution = figure.subplots(3, 1)
    plan = result.plan
    figure.suptitle(f"{plan.model} at {plan.address}: {result.seconds:.0f} s")
    total = [line for line in lines(result) if line.class_name == TOTAL]
    _draw_rates(rates, total, plan.interval_s)
    _draw_latencies(latencies, total)
    _draw_distribution(distribution, result)
    figure.savefig(file)


def _draw_rates(axes: Any, total: list[Line], interval_s: float) -> None:
    edges = [line.at_s for line in total]
    edges.append(edges[-1] + interval_s if edges else 0.0)
    for name, style in RATE_STYLES:
        rates = [getattr(line, name) / interval_s for line in total]
        axes.stairs(rates, edges, baseline=None, label=name, linestyle=style)
    axes.set(xlabel="intended at, s", ylabel="requests per second")
    axes.set_ylim(bottom=0)
    axes.legend()


def _draw_latencies(axes: Any, total: list[Line]) -> None:
    answered = [line for line in total if line.p50_ms]
    at_s = [line.at_s for line in answered]
    axes.plot(at_s, [line.p50_ms for line in answered], marker=".", label="p50")
    axes.plot(at_s, [line.p99_ms for line in answered], marker=".", label="p99")
    axes.set(xlabel="intended at, s", ylabel="latency, ms")
    if answered:
        axes.set_yscale("log")
    axes.legend()


def _draw_distribution(axes: Any, result: LoadResult) -> None:
    """Latency over how rare it is: the tail is what differs."""
    classes = list(result.by_class())
    for name, tally in [(TOTAL, result.total), *(classes if len(classes) > 1 else [])]:
        # No point beyond what the number of answers can show.
        shown = [share for share in SLOWER if share * tally.answered >= 1]
        values = [tally.latencies.percentile_s(100 * (1 - share)) * 1e3 for share in shown]
        axes.plot([1 / share for share in shown], values, marker=".", label=name)
    axes.set(xlabel="one request in ... is slower", ylabel="latency, ms", xscale="log")
    axes.set_ylim(bottom=0)
    axes.legend()
