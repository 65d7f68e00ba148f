"""`headrace rollout` as a user types it: a file store, a gateway that answers over gRPC."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from headrace.cli.main import app
from headrace.cli.rollout.plan import parsed_percent, parsed_shares
from model_store.open import open_store
from model_store.promotion import begin
from model_store.publication import existing_channel, publish
from model_store.rollout import RolloutPlan, RolloutState
from tests.model_store.samples import MODEL, stored
from tests.rollout.gateway import FakeGateway

PLAN = RolloutPlan(shares=(0.05, 0.5), stage_s=0.0, min_requests=10)
QUICK = ("--stage-s", "0", "--min-requests", "10", "--poll-s", "0.05")


@pytest.fixture
def store(tmp_path):
    """Version 1 is stable, 2 on the canary channel."""
    with open_store(f"file://{tmp_path}/store") as opened:
        publish(opened, stored(opened, 1))
        publish(opened, stored(opened, 2), channel="canary")
        yield opened


@pytest.fixture
def gateway(store):
    with FakeGateway(store) as answering:
        yield answering


def channel(store, name):
    return existing_channel(store, MODEL, name)


def launched(store, *arguments, **environment) -> subprocess.Popen:
    """The command in its own process."""
    return subprocess.Popen(
        [sys.executable, "-m", "headrace.cli.main", "rollout", *arguments, "--store", store.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HEADRACE_PROCESS_LOG_FORMAT": "json"} | environment,
    )


def logged(process, event) -> dict:
    """The next line of that name in the process's log."""
    for line in iter(process.stderr.readline, ""):
        told = json.loads(line)
        if told["event"] == event:
            return told
    raise AssertionError(f"it ended before it told of {event}")


def typed(store, *arguments):
    """The command in this process; what it says and its code."""
    return CliRunner().invoke(app, ["rollout", *arguments, "--store", store.url])


def json_of(store, *arguments):
    result = typed(store, *arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refusal(store, *arguments) -> str:
    error = typed(store, *arguments).exception
    return f"{error.reason}: {error.message}"


def test_start_carries_it_out_and_says_by_its_code_how_it_ended(store, gateway):
    command = ("start", MODEL, *QUICK, "--shares", "10,50", "--gateway", gateway.address)
    process = launched(store, *command, "-o", "json")
    output, told = process.communicate(timeout=100)
    assert process.returncode == 0, told
    record = json.loads(output)
    assert (record["state"], record["version"], record["share"]) == ("promoted", 2, "0 %")
    assert "stage 1 of 2 (10 %)" in told and "stage 2 of 2 (50 %)" in told
    assert channel(store, "stable").version == 2

    gateway.failing = 1.0
    publish(store, stored(store, 3), channel="canary")
    process = launched(store, *command)
    output, told = process.communicate(timeout=100)
    assert process.returncode == 1, told
    assert "aborted" in output and "it failed 50 of 50 requests" in told
    assert channel(store, "stable").version == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_it_running_and_the_next_one_goes_on(store, gateway, number):
    gateway.ready = 0
    process = launched(store, "start", MODEL, *QUICK, "--gateway", gateway.address)
    # It says what it waits for once it carries the rollout out.
    assert "waits: ready on 0 of 2 endpoints" in process.stderr.readline()
    process.send_signal(number)
    assert process.wait(60) == 130
    assert "headrace rollout run clicks" in process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert channel(store, "canary").rollout.running
    gateway.ready = 2
    process = launched(store, "run", "--poll-s", "0.05", "--gateway", gateway.address)
    assert logged(process, "promote")["candidate"]["failed"] == 0
    process.send_signal(number)
    assert process.wait(60) == 0
    process.stdout.close()
    process.stderr.close()


@pytest.mark.parametrize(
    ("step", "stable"), [("promote.begun", 1), ("promote.between_channels", 2)]
)
def test_one_that_is_killed_between_two_moves_is_completed_by_the_next(
    store, gateway, step, stable
):
    begin(store, MODEL, plan=PLAN)
    run = ("run", MODEL, "--poll-s", "0.05", "--gateway", gateway.address)
    died = launched(store, *run, HEADRACE_FAILPOINTS=f"{step}=kill")
    died.communicate(timeout=100)
    assert died.returncode == -signal.SIGKILL
    assert channel(store, "stable").version == stable
    assert channel(store, "canary").rollout.state is RolloutState.PROMOTING
    assert refusal(store, "abort", MODEL).split(":")[0] in ("PROMOTION_BEGUN", "ALREADY_PROMOTED")
    process = launched(store, *run)
    assert logged(process, "promote")["event"] == "promote"
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert channel(store, "stable").version == 2
    assert channel(store, "canary").rollout.state is RolloutState.PROMOTED


def test_run_begins_new_versions_by_itself(store, gateway):
    process = launched(
        store, "run", "--auto", *QUICK, "--shares", "10", "--gateway", gateway.address
    )
    assert logged(process, "promote")["event"] == "promote"
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert channel(store, "stable").version == 2


def test_a_detached_start_leaves_it_to_the_controller(store, gateway):
    flags = ("--shares", "none", "--shadow", "10%", "--max-changed", "5", "--detach")
    record = json_of(store, "start", MODEL, "2", *flags)
    assert (record["state"], record["stage"]) == ("running", "without a share")
    plan = channel(store, "canary").rollout.plan
    assert (plan.shares, plan.shadow, plan.max_changed) == ((), 0.1, 0.05)
    assert plan == RolloutPlan(shares=(), shadow=0.1, max_changed=0.05)


def test_options_left_out_are_the_plans_own_defaults(store):
    json_of(store, "start", MODEL, "--detach")
    assert channel(store, "canary").rollout.plan == RolloutPlan()


def test_status_shows_figures_what_is_missing_and_the_history(store, gateway):
    begin(store, MODEL, plan=RolloutPlan(shares=(0.05, 0.5), min_requests=500))
    status = ("status", MODEL, "--gateway", gateway.address, "--gateway", "127.0.0.1:9")
    found = json_of(store, *status)
    assert (found["state"], found["stage"], found["share"]) == (
        "running",
        "stage 1 of 2 (5 %)",
        "5 %",
    )
    assert "50 of 500 requests" in found["next"] and "does not answer" in found["next"]
    assert found["figures"]["candidate"]["requests"] == 50
    assert found["figures"]["errors"] == {"127.0.0.1:9": "no gateway answers there"}
    assert [row["channel"] for row in found["history"]] == ["canary", "canary", "stable"]
    text = typed(store, *status).stdout
    assert "waits:" in text and "rollout begins" in text and "127.0.0.1:9" in text


def test_an_operator_promotes_or_gives_up(store, gateway):
    begin(store, MODEL, plan=PLAN)
    given_up = json_of(store, "abort", MODEL, "--reason", "customers complain")
    assert (given_up["channel"], given_up["reason"]) == ("canary", "customers complain")
    ended = json_of(store, "status", MODEL)
    assert (ended["state"], ended["reason"]) == ("aborted", "customers complain")
    assert refusal(store, "promote", MODEL).startswith("NO_ROLLOUT: no rollout of model 'clicks'")
    begin(store, MODEL, plan=PLAN)
    moved = json_of(store, "promote", MODEL)
    assert (moved["channel"], moved["version"]) == ("stable", 2)


def test_a_rollback_gives_the_rollout_up(store):
    publish(store, stored(store, 3))
    publish(store, stored(store, 4), channel="canary")
    begin(store, MODEL, plan=PLAN)
    result = CliRunner().invoke(app, ["rollback", MODEL, "--store", store.url, "-o", "json"])
    assert json.loads(result.stdout)["version"] == 1
    assert "the rollout of version 4 on channel canary is given up" in result.stderr
    ended = channel(store, "canary")
    assert ended.rollout.state is RolloutState.ABORTED
    assert ended.history[-1].reason == "channel stable was rolled back to version 1"
    assert refusal(store, "start", MODEL).startswith("CHANNEL_HELD")


def test_a_hold_takes_a_person_who_says_so(store):
    publish(store, stored(store, 3))
    held = channel(store, "stable")
    store.move_channel(
        MODEL, "stable", 1, expected_revision=held.revision, held=True, reason="a person"
    )
    publish(store, stored(store, 4), channel="canary")
    begin(store, MODEL, plan=PLAN)
    assert refusal(store, "promote", MODEL).startswith("CHANNEL_HELD")
    assert json_of(store, "promote", MODEL, "--despite-hold")["version"] == 4


def test_a_newer_version_takes_a_person_who_says_so(store):
    begin(store, MODEL, plan=PLAN)
    publish(store, stored(store, 3))
    assert refusal(store, "promote", MODEL).startswith("NOT_NEWER")
    assert json_of(store, "promote", MODEL, "--despite-newer")["version"] == 2


def test_what_is_wrong_is_named(store):
    assert refusal(store, "status", "click") == (
        "MODEL_NOT_FOUND: model 'click' is not in this store: did you mean clicks?"
    )
    assert refusal(store, "status", MODEL).startswith("NO_ROLLOUT: version 2 on channel 'canary'")
    assert "has no channel 'beta'" in refusal(store, "abort", MODEL, "--channel", "beta")
    start = ("start", MODEL, "--detach")
    assert refusal(store, *start, "--shares", "1,many") == (
        "BAD_PERCENT: --shares: 'many' is not a percentage from 0 to 100"
    )
    assert "do not ascend" in refusal(store, *start, "--shares", "5,1")
    assert "--shadow: '101'" in refusal(store, *start, "--shadow", "101")
    assert "not a number from 0" in refusal(store, *start, "--stage-s", "-1")
    assert "expected host:port" in refusal(store, *start, "--gateway", "localhost")
    assert "VERSION_NOT_FOUND" in refusal(store, "start", MODEL, "9", "--detach")
    assert "NO_CANDIDATE" in refusal(store, "start", MODEL, "1", "--detach")
    assert refusal(store, "run", "clack").startswith("MODEL_NOT_FOUND")
    assert channel(store, "canary").rollout is None


def test_shares_are_written_in_percent():
    assert parsed_shares("1, 5,25%") == (0.01, 0.05, 0.25)
    assert parsed_shares("none") == parsed_shares("") == ()
    assert parsed_percent("0.5", "--x") == 0.005
