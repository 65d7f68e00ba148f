"""What a run specification is refused for, without running a user's code."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from chassis.errors import HeadraceError, InvalidArgument
from headrace.policy.publish_policy import PublishRule
from protos.headrace.v1 import trainer_pb2 as pb
from trainer_service.messages import run_message, spec_from, spec_message
from trainer_service.metrics import RunCollector
from trainer_service.record import RunRecord, RunState
from trainer_service.spec import RunSpec, check_spec

REPOSITORY = Path(__file__).parents[2]
GOOD = RunSpec("tests.trainer_service.models:Tiny", "file:///var/lib/headrace")


def test_a_good_spec_passes():
    check_spec(GOOD, REPOSITORY)
    check_spec(replace(GOOD, store="redis://localhost:6379/0", publish_as="other"), REPOSITORY)


@pytest.mark.parametrize(
    ("changes", "reason", "sentence"),
    [
        ({"model": "examples.digits"}, "BAD_IMPORT_PATH", "not of this form"),
        ({"model": "../x:Y"}, "BAD_IMPORT_PATH", "not of this form"),
        ({"model": "examples.nothing:X"}, "BAD_IMPORT_PATH", "no module 'examples.nothing'"),
        ({"model": "nowhere.at.all:X"}, "BAD_IMPORT_PATH", "no module 'nowhere'"),
        ({"model": "examples.digits.deeper:X"}, "BAD_IMPORT_PATH", "no module 'examples.digits.d"),
        ({"store": "memory://m"}, "BAD_STORE_URL", "expected file:///path or redis://"),
        ({"store": "ftp://host/x"}, "BAD_STORE_URL", "expected one of memory://"),
        ({"store": "file://relative"}, "BAD_STORE_URL", "absolute path"),
        ({"publish_as": "no name"}, "BAD_NAME", "publish_as 'no name'"),
        ({"channel": "../stable"}, "BAD_NAME", "channel"),
        ({"processes": -1}, "BAD_SPEC", "processes: expected 1 to 64, got -1"),
        ({"processes": 65}, "BAD_SPEC", "expected 1 to 64"),
        ({"max_steps": -5}, "BAD_SPEC", "max_steps: expected 0 or more, got -5"),
        ({"checkpoint_every_steps": -1}, "BAD_SPEC", "checkpoint_every_steps"),
        ({"evaluate_every_steps": -1}, "BAD_SPEC", "evaluate_every_steps"),
        ({"max_steps_per_s": -0.5}, "BAD_SPEC", "max_steps_per_s"),
        ({"max_steps_per_s": float("nan")}, "BAD_SPEC", "max_steps_per_s"),
        ({"publish": PublishRule(every_steps=-1)}, "BAD_SPEC", "publish.every_steps"),
        ({"publish": PublishRule(every_s=float("inf"))}, "BAD_SPEC", "publish.every_s"),
        ({"publish": PublishRule(metric="m" * 200)}, "BAD_SPEC", "publish.metric"),
    ],
)
def test_a_bad_spec_is_refused_with_what_was_expected(changes, reason, sentence):
    with pytest.raises(InvalidArgument) as error:
        check_spec(replace(GOOD, **changes), REPOSITORY)
    assert error.value.reason == reason
    assert sentence in error.value.message
    assert str(REPOSITORY) not in error.value.message


def test_looking_for_a_model_imports_nothing(tmp_path):
    package = tmp_path / "watched_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "model.py").write_text("raise SystemExit('imported')")
    check_spec(replace(GOOD, model="watched_package.model:Thing"), tmp_path)
    assert "watched_package" not in sys.modules
    with pytest.raises(HeadraceError, match=r"no module 'watched_package\.other'"):
        check_spec(replace(GOOD, model="watched_package.other:Thing"), tmp_path)


def test_a_message_gets_its_defaults_and_comes_back():
    message = pb.RunSpec(model="a:B", store="file:///x", publish=pb.PublishPolicy(every_s=2))
    spec = spec_from(message)
    assert (spec.channel, spec.processes, spec.checkpoint_every_steps) == ("stable", 1, 200)
    assert spec_from(spec_message(spec)) == spec
    assert RunSpec.from_json(spec.as_json()) == spec


def test_a_store_s_password_is_not_told():
    told = spec_message(replace(GOOD, store="redis://user:secret@host:6379/0"))
    assert told.store == "redis://host:6379/0"
    assert spec_message(replace(GOOD, store="file:///a@b/c")).store == "file:///a@b/c"


def test_figures_of_runs_are_read_when_they_are_looked_at():
    records = [RunRecord("r", GOOD, RunState.RUNNING, step=3, restarts=2)]
    registry = CollectorRegistry()
    registry.register(RunCollector(lambda: records))
    assert registry.get_sample_value("headrace_run_step", {"run": "r"}) == 3
    records[0] = replace(records[0], step=4)
    assert registry.get_sample_value("headrace_run_step", {"run": "r"}) == 4
    assert registry.get_sample_value("headrace_run_restarts_total", {"run": "r"}) == 2
    assert registry.get_sample_value("headrace_run_state", {"run": "r"}) == 2


@pytest.mark.parametrize("missing", ["model", "store"])
def test_a_message_without_model_or_store_is_refused(missing):
    given = {"model": "a:B", "store": "file:///x"} | {missing: ""}
    with pytest.raises(InvalidArgument, match=f"spec.{missing} is missing"):
        spec_from(pb.RunSpec(**given))


def test_a_record_becomes_a_message():
    record = RunRecord("r", GOOD, RunState.PAUSED, 17, step=3, metrics={"auc": 0.5}, revision=9)
    message = run_message(record)
    assert (message.run_id, message.state, message.step) == ("r", pb.RUN_STATE_PAUSED, 3)
    assert dict(message.metrics) == {"auc": 0.5}
    assert message.spec.model == GOOD.model


def test_the_service_s_process_does_not_import_torch():
    code = "import sys, trainer_service.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0
