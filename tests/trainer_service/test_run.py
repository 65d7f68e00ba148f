"""The life of a run, with a job that is told what to say."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chassis.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from tests.trainer_service.fake_job import FakeJob
from trainer_service.policy import restart_policy
from trainer_service.record import RunState
from trainer_service.report import Phase
from trainer_service.run_files import RunFiles
from trainer_service.runs import Runs
from trainer_service.settings import TrainerSettings
from trainer_service.spec import RunSpec

REPOSITORY = Path(__file__).parents[2]
SPEC = RunSpec("tests.trainer_service.models:Tiny", "file:///nowhere")


class Service:
    """Runs whose jobs are fakes, in the order in which they were started."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.jobs: asyncio.Queue[FakeJob] = asyncio.Queue()
        runs._start_job = self._start

    async def _start(self, _record: object) -> FakeJob:
        job = FakeJob()
        self.jobs.put_nowait(job)
        return job

    async def started(self, run_id: str = "r") -> FakeJob:
        await self.runs.start(run_id, SPEC)
        return await self.jobs.get()

    async def until(self, state: RunState, run_id: str = "r"):
        run = self.runs.run(run_id)
        while run.record.state is not state:
            await run.wait_changed(run.record.revision)
        return run.record


@asynccontextmanager
async def opened(state_dir: Path, **settings: object):
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        loaded = TrainerSettings.load(overrides={"state_dir": state_dir, **settings})
        runs = Runs(loaded, tasks, directory=REPOSITORY)
        # Before the jobs go on, so that none is real.
        service = Service(runs)
        for run in runs._runs.values():
            run._start = service._start
        await runs.load()
        runs.go_on()
        yield service
        await runs.close()


@pytest.fixture
async def service(tmp_path):
    async with opened(tmp_path) as found:
        yield found


@pytest.fixture(autouse=True)
def no_delays(monkeypatch):
    monkeypatch.setattr(restart_policy, "FIRST_DELAY_S", 0.0)


async def test_a_run_starts_steps_and_completes(service, tmp_path):
    job = await service.started()
    assert service.runs.run("r").record.state is RunState.STARTING
    job.report(step=5, loss=0.5, metrics={"auc": 0.7}, versions=2, last_version=9)
    record = await service.until(RunState.RUNNING)
    assert (record.step, record.versions_published, record.last_version) == (5, 2, 9)
    job.end(Phase.COMPLETED, step=10, versions=3, last_version=10, checkpoint_step=10)
    record = await service.until(RunState.COMPLETED)
    assert (record.step, record.versions_published, record.pid) == (10, 3, 0)
    assert RunFiles(tmp_path).load() == [record]


async def test_a_start_is_idempotent_by_id_and_spec(service):
    await service.started()
    await service.runs.start("r", SPEC)
    assert service.jobs.empty()
    with pytest.raises(AlreadyExists, match="exists with another spec"):
        await service.runs.start("r", RunSpec(SPEC.model, SPEC.store, seed=1))


async def test_an_id_is_made_up_where_none_is_given(service):
    record = await service.runs.start("", SPEC)
    assert service.runs.records() == [service.runs.run(record.run_id).record]


async def test_a_failed_job_starts_again_and_counts_on(service):
    job = await service.started()
    job.report(step=5, versions=2, last_version=2)
    job.fail("the disk went away")
    job = await service.jobs.get()
    record = service.runs.run("r").record
    assert (record.restarts, record.error) == (1, "the disk went away")
    job.report(step=6, versions=1, last_version=3)
    record = await service.until(RunState.RUNNING)
    assert (record.versions_published, record.error) == (3, "the disk went away")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [(-9, "the job's agent died of signal 9"), (3, "the job ended with exit code 3")],
)
async def test_a_job_that_dies_without_a_word_is_named_by_its_exit_code(service, code, sentence):
    (await service.started()).die(code)
    await service.jobs.get()
    assert service.runs.run("r").record.error == sentence


async def test_an_agent_s_last_word_counts_over_a_worker_s(service):
    job = await service.started()
    job.fail("RuntimeError: connection closed", "", "rank 1 (process 7) died of SIGKILL")
    await service.jobs.get()
    assert service.runs.run("r").record.error == "rank 1 (process 7) died of SIGKILL"


async def test_without_progress_it_gives_up_and_a_resume_forgives(tmp_path):
    async with opened(tmp_path, max_restarts=2) as service:
        job = await service.started()
        for _ in range(2):
            job.fail("no luck")
            job = await service.jobs.get()
        job.fail("no luck at all")
        record = await service.until(RunState.FAILED)
        assert (record.restarts, record.error) == (2, "no luck at all")
        assert (await service.runs.resume("r")).state is RunState.STARTING
        job = await service.jobs.get()
        job.fail("again")
        await service.jobs.get()


async def test_what_cannot_be_cured_fails_at_once(service):
    job = await service.started()
    job.fail("Thing is no headrace.Model", permanent=True)
    record = await service.until(RunState.FAILED)
    assert (record.restarts, record.error) == (0, "Thing is no headrace.Model")


async def test_a_sigterm_that_nobody_here_sent_is_a_failure(service):
    (await service.started()).end(Phase.RELEASED)
    await service.jobs.get()
    assert service.runs.run("r").record.restarts == 1


async def test_pause_resume_stop(service):
    job = await service.started()
    job.report(step=3)
    await service.until(RunState.RUNNING)
    record = await service.runs.pause("r")
    assert (record.state, record.pid, job.sent) == (RunState.PAUSED, 0, ["finish"])
    assert (await service.runs.pause("r")).revision == record.revision
    assert (await service.runs.resume("r")).state is RunState.STARTING
    await service.jobs.get()
    assert (await service.runs.resume("r")).state is RunState.STARTING
    assert service.jobs.empty()
    stopped = await service.runs.stop("r")
    assert (stopped.state, stopped.restarts) == (RunState.STOPPED, 0)
    assert (await service.runs.stop("r")).revision == stopped.revision


async def test_a_paused_run_can_be_stopped_and_a_stopped_one_resumed(service):
    await service.started()
    await service.runs.pause("r")
    assert (await service.runs.stop("r")).state is RunState.STOPPED
    with pytest.raises(FailedPrecondition, match="is stopped and cannot be paused"):
        await service.runs.pause("r")
    assert (await service.runs.resume("r")).state is RunState.STARTING


async def test_a_resume_while_the_job_is_ending_starts_another_without_a_failure(service):
    job = await service.started()
    job.stubborn = True
    job.report(step=3)
    await service.until(RunState.RUNNING)
    pausing = asyncio.create_task(service.runs.pause("r"))
    await asyncio.sleep(0)
    await service.runs.resume("r")
    job.end(Phase.RELEASED, step=4)
    await service.jobs.get()
    assert (await pausing).state is not RunState.PAUSED
    assert service.runs.run("r").record.restarts == 0


async def test_a_job_that_ends_badly_when_asked_to_is_paused_with_the_reason(service):
    job = await service.started()
    job.stubborn = True
    pausing = asyncio.create_task(service.runs.pause("r"))
    await asyncio.sleep(0)
    job.die(-9)
    record = await pausing
    assert (record.state, record.restarts) == (RunState.PAUSED, 0)
    assert "died of signal 9" in record.error


async def test_a_completed_run_is_not_resumed(service):
    (await service.started()).end(Phase.COMPLETED, step=1)
    record = await service.until(RunState.COMPLETED)
    assert await service.runs.stop("r") == record
    for call in (service.runs.pause, service.runs.resume):
        with pytest.raises(FailedPrecondition, match="is completed and cannot be"):
            await call("r")


async def test_publish_now_needs_a_running_job(service):
    job = await service.started()
    with pytest.raises(FailedPrecondition, match="is starting; expected running"):
        service.runs.run("r").publish_now()
    job.report(step=1)
    await service.until(RunState.RUNNING)
    service.runs.run("r").publish_now()
    assert job.sent == ["publish"]


async def test_unknown_runs_and_bad_names(service):
    for call in (service.runs.stop, service.runs.pause, service.runs.resume):
        with pytest.raises(NotFound, match="there is no run 'other'"):
            await call("other")
    for run_id in ("../r", "a b", "x" * 200):
        with pytest.raises(InvalidArgument):
            await service.runs.start(run_id, SPEC)
    assert service.runs.records() == []


async def test_jobs_are_bounded(tmp_path):
    async with opened(tmp_path, max_jobs=1) as service:
        await service.started("a")
        with pytest.raises(ResourceExhausted, match="allows 1"):
            await service.runs.start("b", SPEC)
        await service.runs.pause("a")
        await service.started("b")
        with pytest.raises(ResourceExhausted):
            await service.runs.resume("a")


async def test_the_newest_run_comes_first(service, monkeypatch):
    times = iter([5, 7, 6])
    monkeypatch.setattr("trainer_service.runs.wall_time_ms", lambda: next(times))
    for run_id in ("a", "b", "c"):
        await service.started(run_id)
    assert [record.run_id for record in service.runs.records()] == ["b", "c", "a"]


async def test_a_service_that_stops_ends_jobs_and_goes_on_with_them_later(tmp_path):
    async with opened(tmp_path) as first:
        running = await first.started("running")
        running.report(step=4, versions=1, last_version=1, checkpoint_step=4)
        await first.until(RunState.RUNNING, "running")
        await first.started("paused")
        await first.runs.pause("paused")
    assert running.sent == ["finish"]
    states = {record.run_id: record.state for record in RunFiles(tmp_path).load()}
    assert states == {"running": RunState.RUNNING, "paused": RunState.PAUSED}
    with pytest.raises(Unavailable):
        await first.runs.start("late", SPEC)
    async with opened(tmp_path) as second:
        job = await second.jobs.get()
        assert second.jobs.empty()
        job.report(step=5, versions=1, last_version=2)
        record = await second.until(RunState.RUNNING, "running")
        assert (record.versions_published, record.restarts) == (2, 0)


async def test_a_record_that_cannot_be_written_does_not_end_the_training(service, monkeypatch):
    job = await service.started()

    def full(_files: object, _record: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunFiles, "write", full)
    job.report(step=1, versions=1)
    assert (await service.until(RunState.RUNNING)).step == 1
    with pytest.raises(ResourceExhausted, match="No space left"):
        await service.runs.start("other", SPEC)
    with pytest.raises(NotFound):
        service.runs.run("other")
