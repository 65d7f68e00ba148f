"""`headrace up` as a user runs it: what it reports, and what it refuses."""

import json
import socket
import subprocess

import pytest

from tests.system.up import COMMAND, FREE_PORTS, marked, marked_processes

pytestmark = pytest.mark.system


@pytest.fixture(params=["file", "redis", "s3"])
def store(request):
    """Options that name the store; beside files one replica is enough."""
    if request.param == "file":
        return ["--store", "file"]
    if request.param == "redis":
        return ["--store", "redis", "--replicas", "1"]
    return ["--store-url", request.getfixturevalue("s3_server").url("up"), "--replicas", "1"]


def test_the_loop_serves_ever_better_versions(store, tmp_path):
    arguments = ["--seconds", "12", *store, "--publish-every", "1", *FREE_PORTS]
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


def test_the_loop_of_a_generative_model_asks_by_streams(tmp_path):
    model = ["--model", "examples.characters:Characters", "--rate", "20", "--replicas", "1"]
    arguments = [*model, "--seconds", "6", "--publish-every", "1", *FREE_PORTS]
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, env=marked(tmp_path), timeout=110
    )
    assert done.returncode == 0, done.stderr.decode()
    summary = json.loads(done.stdout)
    assert summary["errors"] == {}
    assert summary["requests"] > 60
    assert summary["versions_served"] >= 2
    assert summary["accuracy_last"] is None
    assert marked_processes(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "examples.digits:Nope"], "Nope is no headrace.Model"),
        (["--model", "no.such:Model"], "No module named 'no'"),
        (["--store-url", "s3://b?endpont=x"], "did you mean endpoint?"),
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
