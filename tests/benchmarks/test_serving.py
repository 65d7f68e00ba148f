"""The benchmark runs on the real stack and reports every point; how fast is not tested."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.bare import BareSpeed, batch_seconds
from benchmarks.cpu import cpu_seconds
from benchmarks.load import ClosedLoop
from benchmarks.settings import parser


def test_a_batch_between_two_measured_sizes_is_interpolated():
    speeds = [BareSpeed(1, 1.0, 9.0), BareSpeed(8, 1.7, 9.0), BareSpeed(32, 4.1, 9.0)]

    assert batch_seconds(speeds, 1) == 1.0
    assert batch_seconds(speeds, 4.5) == pytest.approx(1.35)
    assert batch_seconds(speeds, 20) == pytest.approx(2.9)
    assert batch_seconds(speeds, 64) == pytest.approx(8.2)


def test_cpu_time_is_that_of_the_process_named():
    before = cpu_seconds(os.getpid()), time.process_time()
    sum(number * number for number in range(300_000))
    after = cpu_seconds(os.getpid()), time.process_time()

    assert after[0] - before[0] == pytest.approx(after[1] - before[1], rel=0.1)


def test_cpu_time_of_a_process_that_is_gone_is_an_error():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    with pytest.raises(ProcessLookupError):
        cpu_seconds(child.pid)


@pytest.mark.parametrize("change", ["trainer.port=1", "gateway.port", "port=1"])
def test_a_change_of_no_setting_is_refused(change, capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["--set", change])
    assert "expected SERVICE.KEY=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(("other_bytes", "failures"), [(101, {}), (96, {"WRONG_SIZE": 1})])
async def test_an_answer_may_grow_by_its_age_and_by_nothing_else(other_bytes, failures):
    sizes = [100, other_bytes]

    async def call(_request, timeout):
        size = sizes.pop(0)
        loop.stopping = not sizes
        return bytes(size)

    loop = ClosedLoop(call, [b""])
    await loop.work(0, asyncio.Event())
    assert len(loop.latencies_s) == 2
    assert loop.failures == failures


@pytest.mark.system
def test_a_tiny_run_reports_every_point(tmp_path):
    file = tmp_path / "results" / "serving.json"
    arguments = ["--model=mlp", "--seconds=0.2", "--outstanding=1,8", f"--json={file}"]
    changes = ["--set=gateway.max_inflight_batches=1", "--set=replica.poll_s=0.5"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", *arguments, *changes],
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert file.exists(), run.stderr
    report = json.loads(file.read_text())
    failures = [p["outcome"]["failures"] for model in report["models"] for p in model["points"]]
    # A machine busy with other tests may fail a request; then the exit code says so.
    assert run.returncode == int(any(failures)), run.stderr
    assert sum(sum(failed.values()) for failed in failures) <= 2, failures
    assert report["settings"]["outstanding"] == [1, 8]
    assert report["conditions"]["versions"]["torch"]
    [model] = report["models"]
    assert [speed["rows"] for speed in model["bare"]] == [1, 8, 32, 64]
    assert [(p["via"], p["rows"], p["outstanding"]) for p in model["points"]] == [
        ("gateway", 1, 1),
        ("gateway", 1, 8),
        ("replica", 1, 1),
        ("replica", 1, 8),
        ("replica", 64, 2),
    ]
    for point in model["points"]:
        check_point(point)
    assert "| gateway " in run.stdout
    assert "8 outstanding" in run.stderr


def check_point(point):
    outcome = point["outcome"]
    roles = {"gateway", "replica", "client"} if point["via"] == "gateway" else {"replica", "client"}

    assert outcome["requests"] > 0
    assert 0 < outcome["p50_ms"] <= outcome["p99_ms"]
    assert outcome["requests_per_s"] == pytest.approx(outcome["requests"] / outcome["seconds"])
    assert set(outcome["cpu_us"]) == roles
    assert all(spent > 0 for spent in outcome["cpu_us"].values())
    assert 0 <= outcome["other_cores"] <= os.cpu_count()
    assert point["share_of_bare"] > 0
    if point["via"] == "gateway":
        assert 1 <= outcome["rows_per_batch"] <= 8


@pytest.mark.system
def test_an_interrupted_run_stops_its_children(tmp_path):
    arguments = ["--model=mlp", "--seconds=0.1", f"--json={tmp_path / 'serving.json'}"]
    command = [sys.executable, "-m", "benchmarks.serving", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        assert "bare loop" in run.stderr.readline()
        # The next child is the replica; the stack is half started then.
        while not (children := children_of(run.pid)):
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130

    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert not (tmp_path / "serving.json").exists()


def children_of(pid):
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [number for number in numbers if parent_of(number) == pid]


def parent_of(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    # The name in parentheses may hold anything; state and parent follow its last one.
    return int(stat.rpartition(")")[2].split()[1])
