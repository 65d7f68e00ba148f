"""All runs of the service: found, started, stopped, and taken up again after a restart.

Decides which requests a run's state allows. Each run's life is its own task's (`trainer_service.
run`); this module owns the tasks.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

from chassis.clock import wall_time_ms
from chassis.errors import (
    AlreadyExists,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from chassis.names import checked_name
from chassis.telemetry import logger
from trainer_service.job_process import JobProcess
from trainer_service.record import ACTIVE, ENDED, RunRecord, RunState
from trainer_service.run import Run, Wanted
from trainer_service.run_files import RunFiles
from trainer_service.settings import TrainerSettings
from trainer_service.spec import RunSpec, check_spec

log = logger(__name__)


class Runs:
    """`tasks` owns the runs' tasks; jobs import modules from `directory`."""

    def __init__(
        self, settings: TrainerSettings, tasks: asyncio.TaskGroup, *, directory: Path
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._directory = directory
        self._files = RunFiles(settings.state_dir)
        self._runs: dict[str, Run] = {}
        self._supervised: dict[str, asyncio.Task[None]] = {}
        self.closing = asyncio.Event()

    async def load(self) -> None:
        """Claims the state directory and reads every run; before anybody may ask for one.

        Raises FailedPrecondition (STATE_DIR_IN_USE).
        """
        await asyncio.to_thread(self._files.claim)
        for record in await asyncio.to_thread(self._files.load):
            self._add(record)

    def go_on(self) -> None:
        """Starts the jobs of the runs that had one when the service ended."""
        for run in self._runs.values():
            if run.record.state in ACTIVE and run.wanted is Wanted.NOTHING:
                log.info(
                    "resuming a run", run_id=run.record.run_id, step=run.record.checkpoint_step
                )
                self._bring_about(run, Wanted.JOB)

    async def close(self) -> None:
        """Ends every job after a checkpoint; their runs go on when the service starts again."""
        self.closing.set()
        for run in self._runs.values():
            # One that is being paused or stopped is ending already, and for good.
            if run.wanted is Wanted.JOB:
                run.want(Wanted.RELEASE)
        await asyncio.gather(*self._supervised.values())
        await asyncio.to_thread(self._files.release)

    async def start(self, run_id: str, spec: RunSpec) -> RunRecord:
        """A new run, or the one of that id.

        Raises InvalidArgument (what `check_spec` refuses), AlreadyExists (RUN_EXISTS) where the
        id's run has another spec, ResourceExhausted (TOO_MANY_JOBS).
        """
        self._check_open()
        run_id = checked_name(run_id or f"run-{uuid4().hex[:12]}", what="run_id")
        await asyncio.to_thread(check_spec, spec, self._directory)
        found = self._runs.get(run_id)
        if found is not None:
            if found.record.spec != spec:
                raise AlreadyExists(
                    "RUN_EXISTS", f"run {run_id!r} exists with another spec", field="run_id"
                )
            return found.record
        self._check_open()
        self._check_room()
        record = RunRecord(run_id, spec, RunState.STARTING, wall_time_ms(), revision=1)
        run = self._add(record)
        try:
            await asyncio.to_thread(self._files.write, record)
        except OSError as error:
            del self._runs[run_id]
            raise ResourceExhausted(
                "STATE_DIR_FULL", f"the run cannot be recorded: {error.strerror}"
            ) from error
        self._bring_about(run, Wanted.JOB)
        return record

    async def stop(self, run_id: str) -> RunRecord:
        """The run once it has ended. Raises NotFound (RUN_NOT_FOUND)."""
        run = self.run(run_id)
        if run.wanted is Wanted.NOTHING and run.record.state in ENDED:
            return run.record
        return await self._settle(run, Wanted.STOP)

    async def pause(self, run_id: str) -> RunRecord:
        """The run once it is paused.

        Raises NotFound (RUN_NOT_FOUND), FailedPrecondition (RUN_ENDED).
        """
        run = self.run(run_id)
        if run.wanted is Wanted.NOTHING and run.record.state is RunState.PAUSED:
            return run.record
        if run.wanted in (Wanted.NOTHING, Wanted.STOP):
            raise _ended(run.record, "paused")
        return await self._settle(run, Wanted.PAUSE)

    async def resume(self, run_id: str) -> RunRecord:
        """The run once it is starting; one that is starting or running stays so.

        Raises NotFound (RUN_NOT_FOUND), FailedPrecondition (RUN_ENDED) for a completed one,
        ResourceExhausted (TOO_MANY_JOBS).
        """
        run = self.run(run_id)
        if run.wanted is Wanted.JOB:
            return run.record
        if run.record.state is RunState.COMPLETED:
            raise _ended(run.record, "resumed")
        self._check_room()
        self._bring_about(run, Wanted.JOB)
        return await run.wait_active()

    def run(self, run_id: str) -> Run:
        """The run of that id. Raises NotFound (RUN_NOT_FOUND)."""
        found = self._runs.get(checked_name(run_id, what="run_id"))
        if found is None:
            raise NotFound("RUN_NOT_FOUND", f"there is no run {run_id!r}", field="run_id")
        return found

    def records(self) -> list[RunRecord]:
        """All runs, newest first."""
        found = [run.record for run in self._runs.values()]
        return sorted(found, key=lambda record: (-record.create_time_ms, record.run_id))

    def _add(self, record: RunRecord) -> Run:
        run = Run(
            record,
            self._files,
            self._start_job,
            max_restarts=self._settings.max_restarts,
            drain_s=self._settings.drain_s,
        )
        self._runs[record.run_id] = run
        return run

    def _check_open(self) -> None:
        if self.closing.is_set():
            raise Unavailable("STOPPING", "the trainer service is stopping; ask again later")

    def _check_room(self) -> None:
        active = sum(run.record.state in ACTIVE for run in self._runs.values())
        if active >= self._settings.max_jobs:
            raise ResourceExhausted(
                "TOO_MANY_JOBS",
                f"{active} runs have a job and the service allows {self._settings.max_jobs}; stop "
                "or pause one",
            )

    async def _settle(self, run: Run, wanted: Wanted) -> RunRecord:
        self._bring_about(run, wanted)
        return await run.wait_settled(wanted)

    def _bring_about(self, run: Run, wanted: Wanted) -> None:
        self._check_open()
        idle = run.wanted is Wanted.NOTHING
        run.want(wanted)
        if idle:
            # Its former task, if it had one, has seen that nothing was wanted and returned or is
            # about to, without another look.
            task = self._tasks.create_task(run.supervise(), name=f"run {run.record.run_id}")
            self._supervised[run.record.run_id] = task

    async def _start_job(self, record: RunRecord) -> JobProcess:
        log_file = await asyncio.to_thread(self._files.open_job_log, record.run_id)
        with log_file:
            return JobProcess(
                self._files.folder(record.run_id),
                log_file,
                directory=self._directory,
                processes=record.spec.processes,
                threads=self._settings.threads,
                signing_key=self._settings.signing_key,
            )


def _ended(record: RunRecord, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        "RUN_ENDED",
        f"run {record.run_id!r} is {record.state.name.lower()} and cannot be {what}",
    )
