"""`headrace up` interrupted: Ctrl-C drains, a killed trainer comes back, nothing is left behind."""

import json
import os
import signal
import subprocess
import time

import pytest

from tests.system.stack import wait_until
from tests.system.up import COMMAND, FREE_PORTS, marked, marked_processes, proc_file

pytestmark = pytest.mark.system


@pytest.fixture
def running(tmp_path):
    """A loop without an end, and the directory with its state and logs."""
    directory = tmp_path / "state"
    with errors_of(tmp_path).open("wb") as errors:
        process = subprocess.Popen(
            [*COMMAND, "--dir", str(directory), "--publish-every", "0.5", *FREE_PORTS],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=marked(tmp_path),
            start_new_session=True,
        )
    yield process, directory, tmp_path
    if process.poll() is None:
        process.kill()
    process.communicate()
    wait_until(lambda: marked_processes(tmp_path) == [], within_s=30, what="nothing left behind")


def errors_of(mark):
    return mark / "stderr"


def interrupted(process, mark):
    """What the loop sums up after Ctrl-C; it has to end well."""
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, errors_of(mark).read_text()
    return json.loads(output)


def wait_until_it_says(mark, text):
    wait_until(lambda: text in errors_of(mark).read_text(), within_s=120, what=text)


def versions(directory):
    folder = directory / "store" / "models" / "digits" / "versions"
    return sorted(folder.iterdir()) if folder.exists() else []


def test_ctrl_c_drains_and_exits_0(running):
    process, directory, mark = running
    wait_until_it_says(mark, "sending requests")
    wait_until(lambda: len(versions(directory)) >= 4, within_s=90, what="four versions")
    time.sleep(1)
    record = interrupted(process, mark)
    assert record["failed"] == 0
    assert record["requests"] > 0


def test_ctrl_c_before_any_request_sums_up_none(running):
    process, _, mark = running
    wait_until_it_says(mark, "starting the store")
    record = interrupted(process, mark)
    assert record["requests"] == 0
    assert record["seconds"] == 0


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
    assert interrupted(process, mark)["process_restarts"] >= 1


def test_killing_the_loop_leaves_no_process(running):
    process, directory, mark = running
    wait_until(lambda: versions(directory), within_s=90, what="a version")
    process.kill()
    wait_until(lambda: marked_processes(mark) == [], within_s=30, what="the children are gone")
