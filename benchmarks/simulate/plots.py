"""Plots of what scenarios found, as SVG files that are the same for the same figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.simulate.policies import OURS, POLICIES
from benchmarks.simulate.results import Result
from benchmarks.simulate.scenario import Found
from benchmarks.simulate.scenarios import latency, overload, scale
from benchmarks.simulate.scenarios.overload import name_at

SIZE_INCHES = (7.5, 4.2)
# Ids and dates that differ from run to run would make every plot a change.
mpl.rcParams["svg.hashsalt"] = "headrace"
mpl.rcParams["svg.fonttype"] = "none"
PERCENT = 100
LOG = "log"

Draw = Callable[[Found, Figure], None]


def draw_all(results: Sequence[Result], directory: Path) -> list[Path]:
    """Writes the plots of the scenarios that were run; where they are. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for result in results:
        for name, draw in PLOTS.get(result.scenario.name, {}).items():
            figure = Figure(figsize=SIZE_INCHES, layout="constrained")
            draw(result.found, figure)
            files.append(directory / f"{name}.svg")
            figure.savefig(files[-1], metadata={"Date": None, "Creator": None})
    return files


def _line(
    axes: Axes,
    found: Found,
    cases: Mapping[float, str] | Mapping[int, str],
    figure: str,
    label: str,
    scale: float,
) -> None:
    """A line over the values that `cases` are for, with confidence intervals."""
    estimates = {at: found.estimate(case, figure) for at, case in cases.items()}
    axes.errorbar(
        list(estimates),
        [estimate.mean * scale for estimate in estimates.values()],
        yerr=[estimate.half * scale for estimate in estimates.values()],
        label=label,
        marker="o",
        markersize=3,
        linewidth=2.4 if label.startswith(OURS) else 1.1,
        capsize=2,
        zorder=3 if label.startswith(OURS) else 2,
    )


def _finish(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _goodput(found: Found, figure: Figure) -> None:
    axes = figure.subplots()
    for policy in POLICIES:
        cases = {load: name_at(policy, load) for load in overload.LOADS}
        _line(axes, found, cases, "goodput", policy, PERCENT)
    axes.set_xscale(LOG)
    axes.set_xticks(overload.LOADS[1:], [f"{load:g}" for load in overload.LOADS[1:]])
    axes.minorticks_off()
    _finish(axes, "offered load, times capacity", "answers within the SLO, % of capacity")


def _batch_rows(found: Found, figure: Figure) -> None:
    axes = figure.subplots()
    for policy in POLICIES:
        cases = {load: name_at(policy, load) for load in latency.LOADS}
        _line(axes, found, cases, "batch_rows", policy, 1)
    _finish(axes, "offered load, times capacity", "rows a batch, mean")


def _latency(found: Found, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    for axes, name in ((left, "p50_ms"), (right, "p99_ms")):
        for policy in POLICIES:
            cases = {load: name_at(policy, load) for load in latency.LOADS}
            _line(axes, found, cases, name, policy, 1)
        axes.set_ylim(0, 60)
        _finish(axes, "offered load, times capacity", f"{name.removesuffix('_ms')}, ms")
    right.legend().remove()


def _slow(found: Found, figure: Figure) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    names = list(found.by_case)
    for axes, name, label, factor in (
        (left, "in_slo", "% in SLO", PERCENT),
        (right, "p99_ms", "p99, ms", 1),
    ):
        estimates = [found.estimate(case, name) for case in names]
        axes.barh(
            names,
            [estimate.mean * factor for estimate in estimates],
            xerr=[estimate.half * factor for estimate in estimates],
        )
        axes.set_xlabel(label)
        axes.grid(alpha=0.3, axis="x")
    left.set_xlim(left=60)
    left.invert_yaxis()


def _cpu(found: Found, figure: Figure) -> None:
    axes = figure.subplots()
    for load in scale.SCALE_LOADS:
        cases = {count: f"{count} replicas at {load:g}x" for count in scale.REPLICAS}
        _line(axes, found, cases, "cpu_us", f"load {load:g}", 1)
    axes.set_xscale(LOG)
    axes.set_ylim(bottom=0)
    _finish(axes, "replicas", "CPU µs a request, simulator included")


def _gateways(found: Found, figure: Figure) -> None:
    plots = figure.subplots(1, 2)
    for axes, load, name, factor in (
        (plots[0], 0.6, "p99_ms", 1),
        (plots[1], 2.0, "goodput", PERCENT),
    ):
        for team in scale.TEAMS:
            cases = {count: f"{count} gateways at {load:g}x: {team}" for count in scale.GATEWAYS}
            _line(axes, found, cases, name, team, factor)
        what = "p99, ms" if name == "p99_ms" else "goodput, % of capacity"
        axes.set_xscale(LOG, base=2)
        axes.set_xticks(scale.GATEWAYS, [str(count) for count in scale.GATEWAYS])
        axes.set_ylim(bottom=0)
        _finish(axes, "gateways", f"{what}, at load {load:g}")


PLOTS: Mapping[str, Mapping[str, Draw]] = {
    "goodput": {"goodput": _goodput},
    "latency": {"latency": _latency, "batch-rows": _batch_rows},
    "slow": {"slow-replica": _slow},
    "replicas": {"replicas": _cpu},
    "gateways": {"gateways": _gateways},
}
