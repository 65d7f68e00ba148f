"""Runs a load in processes of its own and puts together what they measured.

The API for programs: `run(plan)`, or `measure(plan)` inside an event loop. The processes share the
machine's monotonic clock, so they begin at one moment.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any

from chassis.clock import wall_time_ms
from chassis.errors import HeadraceError, Internal, Unavailable
from headrace.load.job import Job, Part, Progress, content_of, jobs_of
from headrace.load.latencies import Latencies
from headrace.load.messages import Bodies, bodies_of
from headrace.load.plan import LoadPlan
from headrace.load.results import LoadResult, joined
from headrace.load.schedule import completed, duration_s, recorded
from headrace.load.tally import unpacked
from headrace.load.target import describe
from headrace.load.transport import guarded

# From the order to start to the first moment of the schedule: every process has read it by then.
LEAD_S = 0.1
# A result holds four bytes for each answer.
LONGEST_LINE = 2**30


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How far a load is, of all processes; counts include the warm-up."""

    # Since the load began; of `seconds`, both with the warm-up.
    elapsed_s: float
    seconds: float
    progress: Progress
    # Latencies that came since the snapshot before, in microseconds.
    newest_us: Sequence[int]


OnSnapshot = Callable[[Snapshot], None]


def run(plan: LoadPlan) -> LoadResult:
    """As `measure`, for a program without an event loop."""
    return asyncio.run(measure(plan))


async def measure(
    plan: LoadPlan,
    *,
    on_snapshot: OnSnapshot | None = None,
    stop: asyncio.Event | None = None,
) -> LoadResult:
    """Runs the plan to its end, or until `stop` is set; calls `on_snapshot` as processes report.

    Cancelled, it ends the processes. Raises InvalidArgument where plan and model do not fit,
    Unavailable (UNREACHABLE) where no server answers, NotFound on an unknown model, Internal
    (LOAD_PROCESS) where a process died.
    """
    entries = recorded(plan)
    plan = completed(plan, entries)
    access = guarded(plan.access, plan.mix.tenants)
    target = await describe(plan.address, plan.model, plan.version, access)
    bodies = bodies_of(plan, target)
    fleet = _Fleet(plan, duration_s(plan, entries), on_snapshot)
    try:
        await fleet.launch(jobs_of(plan, bodies), bodies)
        return await fleet.measured(stop or asyncio.Event())
    finally:
        await fleet.end()


@dataclass(slots=True)
class _Worker:
    """One load process, seen from here."""

    process: asyncio.subprocess.Process
    progress: Progress = field(default_factory=Progress)

    async def tell(self, message: dict[str, Any]) -> None:
        """Orders; a process that is gone is found out when its answer is missing."""
        assert self.process.stdin is not None
        with suppress(ConnectionError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            await self.process.stdin.drain()

    async def hand_over(self, job: Job, bodies: bytes) -> None:
        """Gives it its job."""
        assert self.process.stdin is not None
        with suppress(ConnectionError):
            self.process.stdin.write(job.line() + bodies)
            await self.process.stdin.drain()

    async def heard(self) -> dict[str, Any]:
        """Its next message. Raises what it failed with, or Internal (LOAD_PROCESS)."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            code = await self.process.wait()
            raise Internal("LOAD_PROCESS", f"a load process ended with code {code}")
        message: dict[str, Any] = json.loads(line)
        if "failed" in message:
            raise _failure(**message["failed"])
        return message


class _Fleet:
    """All processes of one load."""

    def __init__(self, plan: LoadPlan, seconds: float, on_snapshot: OnSnapshot | None) -> None:
        self._plan = plan
        self._seconds = seconds
        self._on_snapshot = on_snapshot
        self._workers: list[_Worker] = []
        self._start_at = 0.0
        self._stopped_at = float("inf")

    async def launch(self, jobs: Sequence[Job], bodies: Bodies) -> None:
        """Starts the processes and waits until each is connected."""
        content = content_of(bodies)
        for job in jobs:
            self._workers.append(_Worker(await _spawned()))
            await self._workers[-1].hand_over(job, content)
        await asyncio.gather(*(worker.heard() for worker in self._workers))

    async def measured(self, stop: asyncio.Event) -> LoadResult:
        """Lets them begin at one moment and waits for what they measured."""
        self._start_at = time.monotonic() + LEAD_S + self._plan.warmup_s
        start_time_ms = wall_time_ms()
        await self._tell_all({"start_at": self._start_at})
        stopping = asyncio.create_task(self._stop_when(stop))
        try:
            parts = await asyncio.gather(*(self._part(worker) for worker in self._workers))
        finally:
            stopping.cancel()
        complete = not any(part.stopped for part in parts)
        elapsed_s = max(min(time.monotonic(), self._stopped_at) - self._start_at, 0.0)
        return LoadResult(
            plan=self._plan,
            start_time_ms=start_time_ms,
            seconds=self._seconds if complete else min(self._seconds, elapsed_s),
            complete=complete,
            cells=joined(parts, self._plan.mix, self._plan.interval_s),
            lag=_sum([part.lag for part in parts]),
            cpu_s=sum(part.cpu_s for part in parts),
            requests=sum(part.requests for part in parts),
        )

    async def end(self) -> None:
        """Ends processes that are still there."""
        for worker in self._workers:
            if worker.process.returncode is None:
                with suppress(ProcessLookupError):
                    worker.process.kill()
            await worker.process.wait()

    async def _part(self, worker: _Worker) -> Part:
        while True:
            message = await worker.heard()
            if "part" in message:
                return Part.of_record(message["part"])
            worker.progress = Progress(**message["progress"])
            self._show(worker)

    def _show(self, told: _Worker) -> None:
        if self._on_snapshot is None:
            return
        lead_s = self._plan.warmup_s
        elapsed_s = time.monotonic() - self._start_at + lead_s
        snapshot = Snapshot(
            elapsed_s=min(max(elapsed_s, 0.0), self._seconds + lead_s),
            seconds=self._seconds + lead_s,
            progress=_added([worker.progress for worker in self._workers]),
            newest_us=unpacked(told.progress.newest_us),
        )
        self._on_snapshot(snapshot)

    async def _stop_when(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stopped_at = time.monotonic()
        await self._tell_all({"stop": True})

    async def _tell_all(self, message: dict[str, Any]) -> None:
        for worker in self._workers:
            await worker.tell(message)


async def _spawned() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "headrace.load.worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LONGEST_LINE,
        # Ctrl-C in the terminal is for us alone: we tell them to stop and hear what they have.
        start_new_session=True,
    )


def _failure(reason: str, message: str) -> HeadraceError:
    return Unavailable(reason, message)


def _sum(parts: Sequence[Latencies]) -> Latencies:
    total = Latencies()
    for part in parts:
        total.add(part)
    return total


def _added(parts: Sequence[Progress]) -> Progress:
    counts = [item.name for item in fields(Progress) if item.name != "newest_us"]
    return Progress(**{name: sum(getattr(part, name) for part in parts) for name in counts})
