"""`headrace up` as a user runs it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.system.stack import wait_until

pytestmark = pytest.mark.system

COMMAND = [sys.executable, "-m", "headrace.cli.main", "up", "--json"]
FREE_PORTS = ["--port", "0", "--metrics-port", "0", "--admin-port", "0"]


def marked(directory):
    """Environment by which every process of one loop can be found again."""
    return os.environ | {"HEADRACE_CONFIG": "", "UP_TEST_MARK": str(directory)}


def marked_processes(directory):
    mark = f"UP_TEST_MARK={directory}".encode()
    return [pid for pid in running_pids() if mark in proc_file(pid, "environ")]


def running_pids():
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def proc_file(pid, name):
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("store", ["file", "redis"])
def test_the_loop_serves_ever_better_versions(store, tmp_path):
    arguments = ["--seconds", "12", "--store", store, "--publish-every", "1", *FREE_PORTS]
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, env=marked(tmp_path), timeout=110
    )
    assert done.returncode == 0, done.stderr.decode()
    summary = json.loads(done.stdout)
    assert summary["failed"] == 0
    assert summary["errors"] == {}
    assert summary["requests"] > 300
    assert summary["versions_served"] >= 5
    assert summary["versions_published"] >= summary["versions_served"]
    assert summary["accuracy_last"] > summary["accuracy_first"] + 0.2
    assert summary["max_staleness_s"] > 0
    assert summary["process_restarts"] == 0
    assert marked_processes(tmp_path) == []


@pytest.fixture
def running(tmp_path):
    """A loop without an end, and the directory with its state and logs."""
    directory = tmp_path / "state"
    process = subprocess.Popen(
        [*COMMAND, "--dir", str(directory), "--publish-every", "0.5", *FREE_PORTS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=marked(tmp_path),
        start_new_session=True,
    )
    yield process, directory, tmp_path
    if process.poll() is None:
        process.kill()
    process.communicate()
    wait_until(lambda: marked_processes(tmp_path) == [], within_s=30, what="nothing left behind")


def versions(directory):
    folder = directory / "store" / "models" / "digits" / "versions"
    return sorted(folder.iterdir()) if folder.exists() else []


def test_ctrl_c_drains_and_exits_0(running):
    process, directory, _ = running
    wait_until(lambda: len(versions(directory)) >= 4, within_s=90, what="four versions")
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()
    assert json.loads(output)["failed"] == 0


def test_a_killed_trainer_is_started_again_and_resumes(running):
    process, directory, mark = running
    wait_until(lambda: len(versions(directory)) >= 3, within_s=90, what="three versions")
    killed = [
        pid for pid in marked_processes(mark) if b"trainer_service" in proc_file(pid, "cmdline")
    ]
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    before = len(versions(directory))
    wait_until(lambda: len(versions(directory)) >= before + 3, within_s=60, what="it publishes")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()
    assert json.loads(output)["process_restarts"] >= 1


def test_killing_the_loop_leaves_no_process(running):
    process, directory, mark = running
    wait_until(lambda: versions(directory), within_s=90, what="a version")
    process.kill()
    wait_until(lambda: marked_processes(mark) == [], within_s=30, what="the children are gone")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "examples.digits:Nope"], "Nope is no headrace.Model"),
        (["--model", "no.such:Model"], "No module named 'no'"),
        (["--replicas", "0"], "Invalid value for '--replicas'"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_code_2(arguments, sentence):
    done = subprocess.run([*COMMAND, *arguments, *FREE_PORTS], capture_output=True, text=True)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run([*COMMAND, "--port", port], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"--port {port} cannot be used" in done.stderr
