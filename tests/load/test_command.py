"""`headrace load` as a user types it: the report, its files, Ctrl-C, and clear refusals."""

import csv
import json
import signal
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from chassis.errors import HeadraceError
from headrace.cli.load.options import parsed_class, parsed_span, parsed_tenant
from headrace.cli.main import app
from headrace.load import plot
from headrace.load.mix import Tenant, TrafficClass
from tests.load.server import serving

pytestmark = pytest.mark.system

COMMAND = [sys.executable, "-m", "headrace.cli.main", "load"]


def headrace(*arguments):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True)


def refused(*arguments):
    """What the command says before it puts anything under load."""
    with pytest.raises(HeadraceError) as caught:
        CliRunner().invoke(app, ["load", *map(str, arguments)], catch_exceptions=False)
    return caught.value


def test_the_report_and_its_files(tmp_path):
    files = {name: tmp_path / f"load.{name}" for name in ("json", "csv", "svg", "hlog", "jsonl")}
    with serving() as server:
        done = headrace(
            *("echo", "--address", server.address, "--steps", "100:1,200:1"),
            *("--class", "gold:priority=1,objective=20s", "--class", "bulk:share=3"),
            *("--tenant", "a", "--arrivals", "constant", "--warmup", "0.2", "--rows", "1-4"),
            *("--json", files["json"], "--csv", files["csv"], "--plot", files["svg"]),
            *("--hdr", files["hlog"], "--record", files["jsonl"]),
        )
    assert done.returncode == 0, done.stderr
    assert "echo at" in done.stdout and "class gold" in done.stdout and "send lag" in done.stdout
    assert "offered" in done.stderr and "offered" in done.stdout
    record = json.loads(files["json"].read_text())
    total = record["total"]
    assert (total["offered"], total["answered"], total["good"]) == (300, 300, 300)
    assert total["latency_ms"]["p50"] <= total["latency_ms"]["p99.9"] <= total["latency_ms"]["max"]
    assert sum(group["offered"] for group in record["classes"].values()) == 300
    assert record["tenants"]["a"]["offered"] == 300
    assert record["complete"] and record["seconds"] == 2.0
    with files["csv"].open() as content:
        lines = list(csv.DictReader(content))
    totals = [line for line in lines if line["class"] == "total"]
    assert [(line["at_s"], line["offered"]) for line in totals] == [("0.0", "100"), ("1.0", "200")]
    assert {line["class"] for line in lines} == {"total", "gold", "bulk"}
    assert ElementTree.parse(files["svg"]).getroot().tag.endswith("svg")
    assert files["hlog"].read_text().count("Tag=") == 3
    assert len(files["jsonl"].read_text().splitlines()) == 300


def test_a_recorded_load_is_replayed_and_reported_as_json(tmp_path):
    file = tmp_path / "load.jsonl"
    with serving() as server:
        first = headrace(
            *("echo", "--address", server.address, "--seconds", "0.5", "--record", file)
        )
        assert first.returncode == 0, first.stderr
        again = headrace("echo", "--address", server.address, "--trace", file, "-o", "json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["total"]["offered"] == len(file.read_text().splitlines())


def test_ctrl_c_reports_what_was_measured():
    with serving() as server:
        process = subprocess.Popen(
            [*COMMAND, "echo", "--address", server.address, "--seconds", "600", "--json", "-"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # A line a second is shown once requests flow.
        while "answered" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    record = json.loads(output)
    assert not record["complete"] and record["seconds"] < 600
    assert record["total"]["offered"] > 0
    assert any("stopped early" in warning for warning in record["warnings"])


def test_capacity_is_reported():
    with serving() as server:
        done = headrace(
            *("echo", "--address", server.address, "--seconds", "0.3", "--find-capacity"),
            *("--rate", "20", "--objective", "p99<1us", "--settle", "0", "-o", "json"),
        )
    assert done.returncode == 1, done.stderr
    record = json.loads(done.stdout)
    assert record["capacity_per_s"] == 0 and record["best"] is None
    assert record["trials"][0]["rate_per_s"] == 20 and not record["trials"][0]["met"]
    assert "20/s: missed (p99" in done.stderr


def test_nobody_there_and_an_unknown_model_are_one_line_each():
    nobody = headrace("echo", "--address", "127.0.0.1:1")
    assert nobody.returncode == 2
    assert nobody.stderr.splitlines()[-1].startswith("error: no server answers at 127.0.0.1:1")
    with serving() as server:
        done = headrace("nosuch", "--address", server.address)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: model 'nosuch' is unknown"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--class", "gold:prio=1"], "'prio' is unknown; did you mean priority?"),
        (["--class", "gold:share=many"], "'many' is not a number"),
        (["--class", "gold:deadline=50 ms"], "'50 ms' is no span of time"),
        (["--class", "gold:deadline"], "deadline has no value"),
        (["--class", "a", "--class", "a"], "class 'a' is named twice"),
        (["--tenant", "a:token-file=/nonexistent"], "cannot be read"),
        (["--steps", "100"], "expected rate:seconds"),
        (["--steps", "x:1"], "'x' is not a number"),
        (["--steps", "100:0"], "expected a rate of 0"),
        (["--rate", "0"], "nothing would be sent"),
        (["--rows", "1-"], "expected a number or a range"),
        (["--rows", "5-1"], "the smaller number first"),
        (["--shape", "x"], "expected name=SIZE"),
        (["--input", "x=oops"], "expected JSON or @file.npy"),
        (["--steps", "1:1", "--trace", "x"], "leave one out"),
        (["--steps", "1:1", "--seconds", "5"], "leave --seconds out"),
        (["--trace", "/nonexistent"], "cannot be read"),
        (["--find-capacity", "--objective", "fast"], "expected a form such as p99<50ms"),
        (["--plot", "load.gif"], "expected a name that ends in one of"),
        (["--csv", "/nonexistent/x.csv"], "there is no such folder"),
        (["--processes", "0"], "expected 1 to 64"),
    ],
)
def test_options_that_make_no_sense_are_told(arguments, says):
    error = refused("echo", "--address", "127.0.0.1:1", *arguments)
    assert says in error.message
    assert "\n" not in error.message


def test_a_plot_without_matplotlib_names_the_extra_before_the_load(monkeypatch):
    monkeypatch.setattr(plot, "find_spec", lambda _name: None)
    error = refused("echo", "--address", "127.0.0.1:1", "--plot", "x.svg")
    assert error.reason == "NO_PLOTS" and "headrace[plots]" in error.message


def test_classes_and_tenants_in_words(tmp_path):
    (tmp_path / "token").write_text("secret\n")
    assert parsed_class("gold:priority=1,share=0.2,deadline=50ms,objective=40ms") == TrafficClass(
        "gold", 1, 0.2, 0.05, 0.04
    )
    assert parsed_class("bulk") == TrafficClass("bulk")
    assert parsed_tenant(f"a:share=2,token-file={tmp_path}/token") == Tenant("a", 2, "secret")
    assert [parsed_span(text) for text in ("2", "1.5s", "250us")] == [2, 1.5, 0.00025]
