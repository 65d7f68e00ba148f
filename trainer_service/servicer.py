"""The door of the trainer service: headrace.v1.Trainer in, runs and records inside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from chassis.edge import Context
from chassis.errors import Unavailable
from protos.headrace.v1 import trainer_pb2 as pb
from trainer_service.messages import run_message, spec_from
from trainer_service.record import ACTIVE, RunState
from trainer_service.run import Run
from trainer_service.runs import Runs

SERVICE = "headrace.v1.Trainer"

# A watcher sees at most one change in this many seconds, and always the last one.
WATCH_EVERY_S = 0.2


class TrainerServicer:
    """Answers from `runs`."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    async def StartRun(self, request: pb.StartRunRequest, _: Context) -> pb.StartRunResponse:  # noqa: N802
        record = await self._runs.start(request.run_id, spec_from(request.spec))
        return pb.StartRunResponse(run=run_message(record))

    async def StopRun(self, request: pb.StopRunRequest, _: Context) -> pb.StopRunResponse:  # noqa: N802
        return pb.StopRunResponse(run=run_message(await self._runs.stop(request.run_id)))

    async def PauseRun(self, request: pb.PauseRunRequest, _: Context) -> pb.PauseRunResponse:  # noqa: N802
        return pb.PauseRunResponse(run=run_message(await self._runs.pause(request.run_id)))

    async def ResumeRun(self, request: pb.ResumeRunRequest, _: Context) -> pb.ResumeRunResponse:  # noqa: N802
        return pb.ResumeRunResponse(run=run_message(await self._runs.resume(request.run_id)))

    async def GetRun(self, request: pb.GetRunRequest, _: Context) -> pb.GetRunResponse:  # noqa: N802
        return pb.GetRunResponse(run=run_message(self._runs.run(request.run_id).record))

    async def ListRuns(self, _: pb.ListRunsRequest, __: Context) -> pb.ListRunsResponse:  # noqa: N802
        return pb.ListRunsResponse(runs=[run_message(record) for record in self._runs.records()])

    async def PublishNow(self, request: pb.PublishNowRequest, _: Context) -> pb.PublishNowResponse:  # noqa: N802
        run = self._runs.run(request.run_id)
        run.publish_now()
        return pb.PublishNowResponse(run=run_message(run.record))

    async def WatchRun(  # noqa: N802
        self, request: pb.WatchRunRequest, _: Context
    ) -> AsyncIterator[pb.WatchRunResponse]:
        run = self._runs.run(request.run_id)
        seen = run.record
        yield pb.WatchRunResponse(run=run_message(seen))
        while seen.state in ACTIVE or seen.state is RunState.PAUSED:
            await self._next_change(run, seen.revision)
            seen = run.record
            yield pb.WatchRunResponse(run=run_message(seen))
            if seen.state in ACTIVE:
                await asyncio.sleep(WATCH_EVERY_S)

    async def _next_change(self, run: Run, seen: int) -> None:
        """Waits for it. Raises Unavailable (STOPPING) once the service stops."""
        change = asyncio.create_task(run.wait_changed(seen))
        closing = asyncio.create_task(self._runs.closing.wait())
        try:
            await asyncio.wait((change, closing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
            closing.cancel()
        if self._runs.closing.is_set():
            raise Unavailable("STOPPING", "the trainer service is stopping; watch again later")
