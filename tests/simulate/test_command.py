"""`make simulate` runs what it is asked for, and writes figures, tables, plots and the page."""

from __future__ import annotations

import json
import subprocess
import sys
from math import isnan, nan
from pathlib import Path

import pytest

from benchmarks.simulate.catalog import SCENARIOS
from benchmarks.simulate.page import BEGIN, write_page
from benchmarks.simulate.plots import PLOTS, draw_all
from benchmarks.simulate.results import Result, Results, conditions, shown
from benchmarks.simulate.scenario import Case, Column, Estimate, Found, Scenario, at_least, at_most


def scenario(values: list[float]) -> Result:
    found = Found({"ours": [{"goodput": value} for value in values]})
    return Result(
        Scenario(
            "small",
            "What is small.",
            [Case("ours", lambda seed, seconds: {})],
            (Column("goodput", "goodput, %", 100.0),),
            1.0,
            lambda found: [
                at_least("goodput, %", found.estimate("ours", "goodput"), 0.97, 100.0),
                at_most("goodput, %", found.estimate("ours", "goodput"), 0.97, 100.0),
            ],
        ),
        found,
    )


def test_an_estimate_is_a_mean_with_its_confidence_interval():
    # t for 2 degrees of freedom is 4.303.
    found = Estimate.of([1.0, 2.0, 3.0])
    assert (found.mean, found.half) == (2.0, pytest.approx(4.303 / 3**0.5))
    assert Estimate.of([1.0, nan]).mean == 1.0
    assert isnan(Estimate.of([nan]).mean)
    assert shown(Estimate(0.5, 0.01), 100.0, 1) == "50.0 ± 1.0"
    assert shown(Estimate(0.5, 0.0001), 100.0, 1) == "50.0"
    assert shown(Estimate(nan, nan), 100.0, 1) == "-"


def test_a_ratio_is_taken_seed_by_seed():
    found = Found({"a": [{"x": 1.0}, {"x": 4.0}], "b": [{"x": 2.0}, {"x": 8.0}]})
    assert found.ratio("a", "b", "x") == Estimate(0.5, 0.0)
    assert found.least(["a", "b"], "x") == "a"


def test_results_are_written_as_figures_and_as_tables(tmp_path):
    results = Results(2, conditions(), [scenario([0.98, 1.0])])
    results.write(tmp_path)
    figures = json.loads((tmp_path / "simulation.json").read_text())
    assert figures["scenarios"]["small"]["cases"] == {"ours": [{"goodput": 0.98}, {"goodput": 1}]}
    assert [one["reached"] for one in figures["scenarios"]["small"]["targets"]] == [True, False]
    text = (tmp_path / "simulation.md").read_text()
    assert "| goodput, % | ≥ 97.0 | 99.0 ± 12.7 | pass |" in text
    assert "| goodput, % | ≤ 97.0 | 99.0 ± 12.7 | **miss** |" in text
    assert "| ours | 99.0 ± 12.7 |" in text
    assert results.missed == ["goodput, %"]


def test_the_page_keeps_what_people_wrote_and_what_did_not_run(tmp_path):
    page = tmp_path / "scheduling-simulation.md"
    generated = "## small\n\nold figures\n\n## latency\n\nother figures\n"
    page.write_text(f"# Ours\n\n## Findings\n\n{BEGIN}\n\n{generated}")
    for _ in range(2):
        write_page(Results(1, conditions(), [scenario([0.98])]), tmp_path)
    text = page.read_text()
    assert text.startswith(f"# Ours\n\n## Findings\n\n{BEGIN}\n\n## latency\n\nother figures")
    assert "old figures" not in text
    assert text.count("## small") == text.count("## latency") == 1


def test_every_plot_is_of_a_scenario_and_the_same_for_the_same_figures(tmp_path):
    assert set(PLOTS) <= set(SCENARIOS)
    for name in PLOTS:
        cases = {case.name: [_figures(seed) for seed in (1, 2)] for case in SCENARIOS[name].cases}
        results = [Result(SCENARIOS[name], Found(cases))]
        files = draw_all(results, tmp_path / "one")
        again = draw_all(results, tmp_path / "two")
        assert len(files) == len(PLOTS[name])
        for one, two in zip(files, again, strict=True):
            assert one.read_bytes() == two.read_bytes()


def _figures(seed: int) -> dict[str, float]:
    names = ("goodput", "in_slo", "p50_ms", "p99_ms", "batch_rows", "cpu_us")
    return dict.fromkeys(names, float(seed))


def test_names_of_cases_tell_them_apart():
    for found in SCENARIOS.values():
        names = [case.name for case in found.cases]
        assert len(names) == len(set(names)), found.name


def command(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.simulate", *arguments, f"--out={directory}"],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.system
def test_a_tiny_run_replays_a_trace_and_writes_everything(tmp_path):
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(f'{{"at_s": {number / 100}}}\n' for number in range(30)))
    out, docs = tmp_path / "results", tmp_path / "docs"
    docs.mkdir()
    run = command(f"--trace={trace}", "--quick", f"--docs={docs}", directory=out)
    assert run.returncode == 0, run.stderr
    assert "recorded: trace.jsonl: 30 requests" in run.stdout
    cases = json.loads((out / "simulation.json").read_text())["scenarios"]["recorded"]["cases"]
    assert cases["headrace"][0]["in_slo"] == 1.0
    assert "## recorded" in (docs / "scheduling-simulation.md").read_text()


@pytest.mark.system
def test_a_scenario_that_is_none_is_named(tmp_path):
    run = command("godput", directory=tmp_path)
    assert run.returncode == 2
    assert "no scenario 'godput'; expected any of goodput, latency" in run.stderr


@pytest.mark.system
def test_a_trace_that_is_none_is_named(tmp_path):
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"at_s": 0}\n{"at": 1}\n')
    run = command(f"--trace={trace}", directory=tmp_path)
    assert run.returncode == 2
    assert f"trace {trace}, line 2: key 'at' is unknown" in run.stderr
