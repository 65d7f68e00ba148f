"""The life of one run: what is wanted of it, its job, and when the job is started again.

One task owns the record and changes it; requests only say what is wanted and wake that task. A
record is durable before anybody can read it. How to publish and to checkpoint is the job's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

from chassis.errors import FailedPrecondition
from chassis.telemetry import logger
from trainer_service.job_process import JobProcess
from trainer_service.policy.restart_policy import GiveUp, RestartPolicy
from trainer_service.record import ACTIVE, ENDED, RunRecord, RunState
from trainer_service.report import JobReport, Phase
from trainer_service.run_files import RunFiles

log = logger(__name__)

# A change of any of these is written down at once; the others are told again by the next job.
_DURABLE = ("state", "versions_published", "checkpoint_step", "restarts", "error", "spec")

Start = Callable[[RunRecord], Awaitable[JobProcess]]


class Wanted(Enum):
    """What the run's task is to bring about."""

    NOTHING = auto()
    JOB = auto()
    PAUSE = auto()
    STOP = auto()
    RELEASE = auto()
    """The service stops: the job ends, and the record says that it goes on later."""


@dataclass(frozen=True, slots=True)
class _JobEnd:
    phase: Phase
    error: str = ""
    permanent: bool = False


class Run:
    """`record` is the newest; `supervise` runs while something is wanted."""

    def __init__(
        self, record: RunRecord, files: RunFiles, start: Start, *, max_restarts: int, drain_s: float
    ) -> None:
        self.record = record
        self.wanted = Wanted.NOTHING
        self._files = files
        self._start = start
        self._drain_s = drain_s
        self._restarts = RestartPolicy(max_restarts, progress=record.checkpoint_step)
        self._max_restarts = max_restarts
        self._job: JobProcess | None = None
        self._woken = asyncio.Event()
        self._changed = asyncio.Event()
        self._failure = ""

    def __repr__(self) -> str:
        return f"Run({self.record.run_id}, {self.record.state.name}, wanted {self.wanted.name})"

    def want(self, wanted: Wanted) -> None:
        """Says what the task is to bring about; a job that is not wanted begins to end."""
        self.wanted = wanted
        self._woken.set()
        if wanted is not Wanted.JOB:
            self._finish_job()

    def publish_now(self) -> None:
        """Passes the request on. Raises FailedPrecondition (NOT_RUNNING)."""
        if self._job is None or self.record.state is not RunState.RUNNING:
            raise FailedPrecondition(
                "NOT_RUNNING",
                f"run {self.record.run_id!r} is {self.record.state.name.lower()}; expected running",
            )
        self._job.send("publish")

    async def wait_changed(self, seen: int) -> RunRecord:
        """The record once its revision is another than `seen`."""
        while self.record.revision == seen:
            await self._changed.wait()
        return self.record

    async def wait_settled(self, wanted: Wanted) -> RunRecord:
        """The record once `wanted` has been brought about, or something else is wanted."""
        while self.wanted is wanted:
            await self._changed.wait()
        return self.record

    async def wait_active(self) -> RunRecord:
        """The record once the wanted job is being started, or something else is wanted."""
        while self.wanted is Wanted.JOB and self.record.state not in ACTIVE:
            await self._changed.wait()
        return self.record

    async def supervise(self) -> None:
        """Brings about what is wanted, and returns when nothing more is."""
        while self.wanted is not Wanted.NOTHING:
            wanted = self.wanted
            try:
                await self._bring_about(wanted)
            except Exception as error:
                log.error("a run's supervision failed", run_id=self.record.run_id, exc_info=error)
                await self._end(wanted, state=RunState.FAILED, error="internal error; see the log")

    async def _bring_about(self, wanted: Wanted) -> None:
        if wanted is Wanted.JOB:
            await self._keep_running()
        elif wanted is Wanted.PAUSE:
            await self._end(wanted, state=RunState.PAUSED)
        elif wanted is Wanted.STOP:
            await self._end(wanted, state=RunState.STOPPED)
        else:
            await self._end(wanted)

    async def _end(self, wanted: Wanted, **changes: Any) -> None:
        await self._change(pid=0, steps_per_s=0.0, **changes)
        # Unless somebody wanted something else while the record was written.
        if self.wanted is wanted:
            self.wanted = Wanted.NOTHING
        self._notify()

    async def _keep_running(self) -> None:
        if self.record.state in ENDED or self.record.state is RunState.PAUSED:
            # Somebody resumed it: earlier failures are forgiven.
            self._restarts = RestartPolicy(self._max_restarts, progress=self.record.checkpoint_step)
            self._failure = ""
        while self.wanted is Wanted.JOB:
            await self._change(state=RunState.STARTING, pid=0, steps_per_s=0.0, error=self._failure)
            end = await self._run_job()
            if end.phase is Phase.COMPLETED:
                await self._end(Wanted.JOB, state=RunState.COMPLETED, error="")
            elif end.phase is Phase.FAILED and await self._give_up(end):
                await self._end(Wanted.JOB, state=RunState.FAILED, error=self._failure)

    async def _run_job(self) -> _JobEnd:
        before = self.record
        try:
            self._job = job = await self._start(before)
        except OSError as error:
            return _JobEnd(Phase.FAILED, f"the job cannot be started: {error.strerror}")
        if self.wanted is not Wanted.JOB:
            self._finish_job()
        end = _JobEnd(Phase.FAILED)
        try:
            async with aclosing(job.reports()) as reports:
                async for report in reports:
                    end = _ended(end, report)
                    if report.phase is not Phase.FAILED:
                        await self._take(report, before)
        finally:
            self._job = None
        if end.phase is Phase.RELEASED and not job.finishing:
            # Somebody else's SIGTERM: the run is still wanted.
            end = replace(end, phase=Phase.FAILED)
        if end.phase is Phase.FAILED and not end.error:
            end = replace(end, error=await self._last_words(job.exit_code()))
        return end

    async def _take(self, report: JobReport, before: RunRecord) -> None:
        await self._change(
            state=RunState.RUNNING,
            pid=report.pid,
            step=report.step,
            loss=report.loss,
            metrics=report.metrics,
            steps_per_s=report.steps_per_s,
            versions_published=before.versions_published + report.versions,
            last_version=report.last_version,
            checkpoint_step=report.checkpoint_step,
            error=report.error or self._failure,
        )

    async def _give_up(self, end: _JobEnd) -> bool:
        """Waits until the job may be started again; True if it is not to be."""
        if self.wanted is not Wanted.JOB:
            # It was asked to end and did not end well; what is wanted comes about all the same.
            await self._change(error=end.error)
            return False
        verdict = self._restarts.on_failure(self.record.checkpoint_step, permanent=end.permanent)
        self._failure = end.error
        log.warning("a job failed", run_id=self.record.run_id, why=end.error, verdict=repr(verdict))
        if isinstance(verdict, GiveUp):
            return True
        await self._change(
            state=RunState.STARTING,
            pid=0,
            steps_per_s=0.0,
            restarts=self.record.restarts + 1,
            error=end.error,
        )
        self._woken.clear()
        if self.wanted is Wanted.JOB:
            await _wait(self._woken, verdict.delay_s)
        return False

    async def _last_words(self, code: int) -> str:
        if code < 0:
            return f"the job's agent died of signal {-code}"
        words = await asyncio.to_thread(self._files.last_words, self.record.run_id)
        return f"the job ended with exit code {code}" + (f": {words}" if words else "")

    def _finish_job(self) -> None:
        if self._job is not None:
            self._job.finish(within_s=self._drain_s)

    async def _change(self, **changes: Any) -> None:
        changed = replace(self.record, **changes)
        if changed == self.record:
            return
        changed = replace(changed, revision=self.record.revision + 1)
        if any(getattr(changed, name) != getattr(self.record, name) for name in _DURABLE):
            await self._write(changed)
        self.record = changed
        self._notify()

    async def _write(self, record: RunRecord) -> None:
        try:
            await asyncio.to_thread(self._files.write, record)
        except OSError as error:
            # A full disk must not end the training; the record is written at its next change.
            log.error("a run's record was not written", run_id=record.run_id, why=str(error))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _ended(end: _JobEnd, report: JobReport) -> _JobEnd:
    """What is known of the end with one more report: a later word, if it says why, counts."""
    if report.phase is Phase.STEPPING or (report.phase is Phase.FAILED and not report.error):
        return end
    return _JobEnd(report.phase, report.error, report.permanent or end.permanent)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return
