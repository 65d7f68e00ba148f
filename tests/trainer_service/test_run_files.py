"""Records that survive, and the directory's one owner."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from chassis.errors import FailedPrecondition
from headrace.policy.publish_policy import PublishRule
from trainer_service.record import RunRecord, RunState
from trainer_service.report import JobReport, Phase
from trainer_service.run_files import JOB_LOG, RECORD, RunFiles, read_record
from trainer_service.spec import RunSpec

RECORDED = RunRecord(
    "first",
    RunSpec("a.b:C", "file:///x", publish=PublishRule(every_s=0.5, metric="auc")),
    RunState.RUNNING,
    create_time_ms=5,
    step=17,
    loss=math.inf,
    metrics={"auc": 0.25},
    error="words",
)


@pytest.fixture
def files(tmp_path):
    opened = RunFiles(tmp_path / "state")
    opened.claim()
    yield opened
    opened.release()


def test_a_record_comes_back_as_it_was(files):
    files.write(RECORDED)
    files.write(replace(RECORDED, run_id="second", state=RunState.FAILED))
    assert files.load() == [RECORDED, replace(RECORDED, run_id="second", state=RunState.FAILED)]
    assert read_record(files.folder("first")) == RECORDED


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"run_id": "first"}', b"null"])
def test_a_record_that_cannot_be_read_is_left_out(files, content):
    files.write(RECORDED)
    files.write(replace(RECORDED, run_id="second"))
    (files.folder("first") / RECORD).write_bytes(content)
    assert [record.run_id for record in files.load()] == ["second"]


def test_a_half_written_record_is_not_seen(files):
    files.write(RECORDED)
    (files.folder("first") / f".{RECORD}.new").write_bytes(b"{")
    assert files.load() == [RECORDED]
    files.write(replace(RECORDED, step=18))
    assert files.load()[0].step == 18


def test_the_directory_has_one_owner_at_a_time(files, tmp_path):
    other = RunFiles(tmp_path / "state")
    with pytest.raises(FailedPrecondition, match="another trainer service uses"):
        other.claim()
    files.release()
    other.claim()
    other.release()


def test_a_job_s_last_words_and_its_predecessor_s_log(files):
    files.write(RECORDED)
    assert files.last_words("first") == ""
    with files.open_job_log("first") as log:
        log.write(b"one\ntwo: no such thing\n\n")
    assert files.last_words("first") == "two: no such thing"
    with files.open_job_log("first"):
        pass
    assert (files.folder("first") / f"{JOB_LOG}.1").read_bytes().startswith(b"one")


def test_a_report_is_one_line():
    report = JobReport(Phase.STEPPING, pid=3, loss=math.nan, metrics={"a\nb": 1.0}, error="é\n")
    line = report.as_line()
    assert line.count(b"\n") == 1
    again = JobReport.from_line(line)
    assert math.isnan(again.loss)
    assert replace(again, loss=0.0) == replace(report, loss=0.0)
