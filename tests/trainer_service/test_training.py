"""The loop of a job, in this process: what it publishes, when it ends, what stops it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

import pytest

from chassis.errors import FailedPrecondition, InvalidArgument, Unavailable
from headrace import publisher
from headrace.policy.publish_policy import RETRY_S, PublishRule
from model_store.memory_store import MemoryStore
from tests.trainer_service.models import Diverging, Tiny
from trainer_service.job.checkpoints import Checkpoints
from trainer_service.job.commands import Command, Commands
from trainer_service.job.learner import Learner
from trainer_service.job.ranks import Ranks
from trainer_service.job.release import Release
from trainer_service.job.training import Training
from trainer_service.job.worker import failure
from trainer_service.report import JobReport, Phase
from trainer_service.spec import RunSpec

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = RunSpec("tests.trainer_service.models:Tiny", "memory://unused", max_steps=20)


class Clock:
    """Moves by `tick` seconds at every look."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now = 100.0
        self.tick = tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


class AwayStore(MemoryStore):
    """Takes no blob while `away`."""

    away = False

    def missing_blobs(self, digests: Sequence[str]) -> set[str]:
        if self.away:
            raise Unavailable("STORE_UNAVAILABLE", "nobody is there")
        return super().missing_blobs(digests)


class Job:
    """A job without processes: a training, its store, its commands and what it reported."""

    def __init__(self, folder, spec: RunSpec, *, model=None, store=None, clock=None, parent=0):
        ranks = Ranks(1)
        self.store = store or AwayStore(f"training-{uuid4().hex}")
        self.learner = Learner(model or Tiny(), ranks, seed=spec.seed)
        checkpoints = Checkpoints(folder, ranks)
        facts = checkpoints.restore(self.learner)
        self.commands = Commands()
        self.reports: list[JobReport] = []
        self.clock = clock or Clock()
        self.release = Release(
            self.store,
            self.learner,
            spec.publish,
            facts,
            channel=spec.channel,
            parent=parent,
            owner="test",
            clock=self.clock,
        )
        self.training = Training(
            spec,
            ranks,
            self.learner,
            checkpoints,
            self.release,
            commands=self.commands,
            report=self._take,
            clock=self.clock,
        )

    def _take(self, report: JobReport) -> None:
        self.reports.append(report)

    def run(self) -> Phase:
        self.training.begin()
        return self.training.run()

    def steps_published(self) -> list[int]:
        name = self.learner.model.name
        return [self.store.manifest(name, at).step for at in self.store.versions(name)]


@pytest.fixture(autouse=True)
def no_delays(monkeypatch):
    monkeypatch.setattr(publisher, "RETRY_DELAYS_S", ())


def test_it_publishes_an_initial_version_then_by_policy_then_the_last_weights(tmp_path):
    job = Job(tmp_path, replace(SPEC, publish=PublishRule(every_steps=8)))
    assert job.run() is Phase.COMPLETED
    assert job.steps_published() == [0, 8, 16, 20]
    last = job.store.manifest("tiny", 4)
    assert (last.parent, last.epoch) == (3, 1)
    assert "run test" in last.producer
    end = job.reports[-1]
    assert (end.phase, end.step, end.versions, end.last_version) == (Phase.COMPLETED, 20, 4, 4)
    assert end.checkpoint_step == 20


def test_a_version_carries_the_metrics_of_its_own_weights(tmp_path):
    job = Job(
        tmp_path, replace(SPEC, publish=PublishRule(every_steps=7), evaluate_every_steps=1000)
    )
    job.run()
    errors = [job.store.manifest("tiny", at).metrics["error"] for at in job.store.versions("tiny")]
    assert len(set(errors)) == len(errors) == 4
    assert job.learner.evaluate()["error"] == errors[-1]


def test_a_model_that_has_versions_gets_no_fresh_weights(tmp_path):
    store = AwayStore(f"training-{uuid4().hex}")
    spec = replace(SPEC, publish=PublishRule(metric="error", minimize=True))
    Job(tmp_path / "first", spec, store=store).run()
    before = store.versions("tiny")
    second = Job(tmp_path / "second", replace(spec, seed=5), store=store)
    second.training.begin()
    assert store.versions("tiny") == before


def test_improvement_of_a_metric_publishes(tmp_path):
    rule = PublishRule(metric="error", minimize=True)
    job = Job(tmp_path, replace(SPEC, publish=rule, evaluate_every_steps=5, max_steps=60))
    job.run()
    errors = [job.store.manifest("tiny", at).metrics["error"] for at in job.store.versions("tiny")]
    assert len(errors) > 3
    assert errors == sorted(errors, reverse=True)


def test_time_publishes(tmp_path):
    rule = PublishRule(every_s=1)
    job = Job(tmp_path, replace(SPEC, publish=rule, max_steps=30), clock=Clock(tick=0.05))
    job.run()
    steps = job.steps_published()
    assert steps[0] == 0
    assert 4 <= len(steps) <= 14


def test_finish_checkpoints_and_a_successor_goes_on(tmp_path):
    spec = replace(SPEC, publish=PublishRule(every_steps=8))
    first = Job(tmp_path, spec)
    first.training.begin()
    for _ in range(5):
        first.learner.advance()
    first.commands.put(Command.FINISH)
    assert first.training.run() is Phase.RELEASED
    assert (first.reports[-1].phase, first.reports[-1].checkpoint_step) == (Phase.RELEASED, 5)
    second = Job(tmp_path, spec, store=first.store, parent=1)
    assert second.learner.step == 5
    assert second.run() is Phase.COMPLETED
    assert second.steps_published() == [0, 8, 16, 20]
    assert second.store.manifest("tiny", 2).epoch == 2
    assert second.store.manifest("tiny", 2).parent == 1


def test_a_job_asked_to_finish_before_its_first_step_leaves_no_checkpoint(tmp_path):
    job = Job(tmp_path / "checkpoints", SPEC)
    job.commands.put(Command.FINISH)
    assert job.run() is Phase.RELEASED
    assert not (tmp_path / "checkpoints").exists()


def test_a_request_publishes_the_current_weights(tmp_path):
    job = Job(tmp_path, SPEC)
    job.commands.put(Command.PUBLISH)
    job.run()
    assert job.steps_published() == [0, 0]


def test_a_completed_run_started_again_completes_at_once(tmp_path):
    spec = replace(SPEC, publish=PublishRule(every_steps=20))
    first = Job(tmp_path, spec)
    first.run()
    second = Job(tmp_path, spec, store=first.store)
    assert second.run() is Phase.COMPLETED
    assert second.steps_published() == [0, 20]


def test_a_store_that_is_away_does_not_stop_the_training(tmp_path):
    job = Job(tmp_path, replace(SPEC, publish=PublishRule(every_steps=8)), clock=Clock())
    job.training.begin()
    job.store.away = True
    job.training.run()
    assert job.steps_published() == [0]
    assert job.reports[-1].step == 20
    assert "nobody is there" in job.reports[-1].error
    job.store.away = False
    job.clock.now += RETRY_S
    assert job.release.publish_due()
    assert job.steps_published() == [0, 20]
    assert job.release.error == ""


def test_a_store_that_is_away_at_the_start_gets_its_first_version_later(tmp_path):
    store = AwayStore(f"training-{uuid4().hex}")
    store.away = True
    job = Job(tmp_path, replace(SPEC, publish=PublishRule(every_steps=8)), store=store)
    job.training.begin()
    assert store.versions("tiny") == []
    store.away = False
    job.clock.now += RETRY_S
    job.training.run()
    assert job.steps_published()[0] == 0


def test_a_successor_fences_a_job_and_that_is_its_end(tmp_path):
    spec = replace(SPEC, publish=PublishRule(every_steps=8))
    stale = Job(tmp_path / "stale", spec)
    stale.training.begin()
    Job(tmp_path / "new", spec, store=stale.store)
    with pytest.raises(FailedPrecondition) as error:
        stale.training.run()
    assert error.value.reason == "STALE_EPOCH"
    report = failure(error.value)
    assert report.permanent and "epoch" in report.error
    assert stale.steps_published() == [0]


def test_weights_that_diverge_end_the_job_and_are_not_published(tmp_path):
    job = Job(tmp_path, replace(SPEC, publish=PublishRule(every_steps=2)), model=Diverging())
    job.training.begin()
    with pytest.raises(InvalidArgument, match="holds NaN") as error:
        job.training.run()
    assert failure(error.value).permanent
    assert job.store.versions("diverging") == [1]


def test_an_unknown_failure_may_be_tried_again():
    report = failure(ConnectionResetError("the peer\nwent away"))
    assert (report.permanent, report.error) == (False, "ConnectionResetError: the peer")


def test_steps_wait_for_the_pace(tmp_path):
    clock = Clock()
    job = Job(tmp_path, replace(SPEC, max_steps=5, max_steps_per_s=4), clock=clock)
    waited = []

    def next_command(timeout_s: float) -> None:
        waited.append(timeout_s)
        clock.now += timeout_s

    job.commands.next = next_command
    job.run()
    assert sum(waited) == pytest.approx(1.0)
