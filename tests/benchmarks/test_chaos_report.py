"""What a run of scenarios is summed up to, and the page that shows it."""

from __future__ import annotations

import json

from rich.console import Console

from benchmarks.chaos.__main__ import main
from benchmarks.chaos.invariants import verdicts
from benchmarks.chaos.page import BEGIN, write_page
from benchmarks.chaos.record import Record
from benchmarks.chaos.report import closing_line, outcome_of, print_outcomes, write_json
from benchmarks.chaos.scenarios import SCENARIOS, SHORT
from tests.benchmarks.chaos_record import call, clean, failed


def outcome(tmp_path, *lines, name="nan", trouble=""):
    record = Record([*clean(), *lines])
    return outcome_of(
        name,
        "a weight is NaN",
        seed=1,
        seconds=20.0,
        record=record,
        found=verdicts(record),
        missing=[],
        trouble=trouble,
        kept=tmp_path,
    )


def test_what_held_says_what_status_said(tmp_path):
    held = outcome(tmp_path)
    assert (held.held, held.record, held.failed_calls) == (True, "", 0)
    assert held.status == "v3 NON_FINITE: tensor 'w' holds NaN"
    assert held.checked["I1"] == 21


def test_what_broke_names_the_invariant_and_keeps_the_record(tmp_path):
    torn = outcome(tmp_path, call(15.5, 77, digest="0" * 16))
    assert torn.broken[0].startswith("I1 BROKEN 1 of 22: call 77 names version 1")
    assert torn.record == str(tmp_path)
    late = outcome(tmp_path, trouble="NotInTime: not within 20 s: version 3 serves")
    assert not late.held
    console = Console(record=True, width=200)
    print_outcomes([torn, late], console)
    shown = console.export_text()
    assert "2 scenarios, 2 broken" in shown
    assert "not within 20 s: version 3 serves" in shown
    assert f"record kept at {tmp_path}" in shown


def test_the_figures_are_kept_as_json(tmp_path):
    write_json([outcome(tmp_path, failed(15.5, 77))], tmp_path / "new" / "chaos.json")
    (row,) = json.loads((tmp_path / "new" / "chaos.json").read_text())
    assert (row["name"], row["held"], row["failed_calls"]) == ("nan", False, 1)


def test_the_page_keeps_its_words_and_the_rows_of_scenarios_that_did_not_run(tmp_path):
    page = tmp_path / "chaos.md"
    page.write_text(f"# Words\n\n{BEGIN}\n")
    first = [outcome(tmp_path, name="probe"), outcome(tmp_path, name="torn-blob")]
    write_page(first, "then", page)
    write_page([outcome(tmp_path, name="nan")], "now", page)
    text = page.read_text()
    assert text.startswith("# Words\n\n")
    assert "then" not in text and "now" in text
    rows = [line.split(" ")[1] for line in text.splitlines() if line.startswith("| ")]
    assert rows == ["scenario", "torn-blob", "nan", "probe"]
    assert closing_line(first).startswith("2 scenarios, 0 broken; ")


def test_scenarios_are_named_and_unknown_ones_refused(capsys):
    assert main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(SCENARIOS)
    assert main(["--only", "nothing"]) == 2
    assert "no scenario 'nothing'" in capsys.readouterr().err
    assert [scenario.name for scenario in SHORT] == ["short-files", "redis-restart"]
