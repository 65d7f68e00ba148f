"""The Open Inference Protocol as a replica speaks it; RPCs not here answer UNIMPLEMENTED.

What may be asked is `intake`'s to decide, what runs the executor's, what is ready `readiness`'s.
No method waits for a load, nor for a forward pass that it did not ask for.
"""

# ruff: noqa: N802 - RPC names are the protocol's.

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

from chassis.call import Call
from chassis.errors import Unimplemented
from chassis.limits import Limits
from chassis.oip import EXTENSIONS, checked_version
from chassis.shared_memory import SharedMemory
from chassis.shared_memory_rpcs import Device, SharedMemoryRpcs
from chassis.tracing import Tracing
from headrace import __version__
from inference_service.admission import Admission
from inference_service.answers import reply_of
from inference_service.control import ControlRpcs
from inference_service.counters import CountersByModel
from inference_service.descriptions import Descriptions
from inference_service.executor import Executor
from inference_service.readiness import Readiness
from inference_service.repository import Repository
from inference_service.stream import InferStream
from inference_service.traces import trace_work
from inference_service.version_lookup import VersionLookup
from inference_service.work import Response, Work
from protos.inference import grpc_service_pb2 as oip


class InferenceServicer(Descriptions, ControlRpcs, SharedMemoryRpcs):
    """`inference.GRPCInferenceService`. Owned by the event loop."""

    def __init__(
        self,
        repository: Repository,
        *,
        executor: Executor,
        admission: Admission,
        readiness: Readiness,
        lookup: VersionLookup,
        max_stream_requests: int,
        limits: Limits,
        memory: SharedMemory,
        device: Device | None,
    ) -> None:
        Descriptions.__init__(self, repository.models, CountersByModel(), limits=limits)
        ControlRpcs.__init__(self, repository, Tracing("replica"))
        SharedMemoryRpcs.__init__(self, memory, device)
        self._executor = executor
        self._admission = admission
        self._readiness = readiness
        self._lookup = lookup
        self._max_stream_requests = max_stream_requests
        self._streams: set[InferStream] = set()
        self._lookups: set[asyncio.Task[None]] = set()

    async def ServerMetadata(self, _request: object, _call: Call) -> oip.ServerMetadataResponse:
        """Name, version and the extensions served."""
        return oip.ServerMetadataResponse(
            name="headrace",
            version=__version__,
            extensions=(*EXTENSIONS, *self.memory_extensions),
        )

    def end_streams(self) -> None:
        """Ends every open stream after its batches in flight."""
        for stream in self._streams:
            stream.stop_reading()

    async def ServerLive(self, _request: object, _call: Call) -> oip.ServerLiveResponse:
        """True while the loop runs."""
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, _request: object, _call: Call) -> oip.ServerReadyResponse:
        """Whether every model has a version and the replica is not draining."""
        return oip.ServerReadyResponse(ready=self._readiness.ready)

    async def ModelReady(
        self, request: oip.ModelReadyRequest, _call: Call
    ) -> oip.ModelReadyResponse:
        """Whether the model, or its version named, would answer."""
        version = checked_version(request.version)
        return oip.ModelReadyResponse(ready=self._readiness.model_ready(request.name, version))

    async def ModelInfer(
        self, request: oip.ModelInferRequest, call: Call
    ) -> oip.ModelInferResponse:
        """One batch; the reply names the version that computed it."""
        done: asyncio.Future[Work] = asyncio.get_running_loop().create_future()

        def on_done(work: Work) -> None:
            if not done.done():
                done.set_result(work)

        work = self.begin(request, call, on_done)
        try:
            await done
        finally:
            # Also where the caller went away, which cancels this call: then it is not run.
            work.abandoned = True
            self.leave(work)
        if work.error is not None:
            raise work.error
        return reply_of(work)

    async def ModelStreamInfer(
        self, requests: AsyncIterator[oip.ModelInferRequest], call: Call
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        """Batches in flight at once, answered as they finish; see `InferStream`."""

        requests_of_call = _StreamRequests(self, call)
        stream = InferStream(requests_of_call, max_requests=self._max_stream_requests)
        self._streams.add(stream)
        try:
            async for reply in stream.replies(requests):
                yield reply
        finally:
            self._streams.discard(stream)

    def begin(
        self,
        request: oip.ModelInferRequest,
        call: Call,
        on_done: Callable[[Work], None],
        on_response: Callable[[Work, Response], None] | None = None,
    ) -> Work:
        """Hands a request to the device; `leave` follows when its caller is done with it.

        Raises what `Intake.work_of` and `Admission.enter` do, and Unimplemented (DECOUPLED_MODEL)
        where one answer is asked of a model that gives several.
        """
        received_at = time.monotonic() if self._tracing.on else 0.0
        regions = self._memory.of(call.identity)
        work = self._intake.work_of(request, call.time_remaining(), call.identity, regions)
        work.received_at = received_at
        if work.signature.decoupled and on_response is None:
            raise Unimplemented(
                "DECOUPLED_MODEL",
                f"model {work.served.name!r} gives several responses to a request: ask it by "
                "ModelStreamInfer",
                field="model_name",
            )
        self._admission.enter(work.size_bytes)
        work.served.enter()
        work.on_done = lambda done: self._end(done, on_done)
        if on_response is not None:
            work.on_response = partial(self._respond, on_response)
        self._executor.submit(work)
        return work

    def leave(self, work: Work) -> None:
        """Its answer was taken, or nobody waits for it."""
        self._admission.leave(work.size_bytes)

    def wake(self, work: Work) -> None:
        """A response of a generation was taken, or nobody waits for any."""
        if work.signature.decoupled:
            self._executor.wake(work)

    def _respond(
        self, on_response: Callable[[Work, Response], None], work: Work, response: Response
    ) -> None:
        self._counters[work.served.name].on_response(work, response)
        on_response(work, response)

    def _end(self, work: Work, on_done: Callable[[Work], None]) -> None:
        work.served.leave()
        self._counters[work.served.name].on_done(work)
        if self._tracing.on:
            trace_work(self._tracing, work)
        if work.error is not None and work.error.reason == "VERSION_NOT_LOADED":
            task = asyncio.create_task(self._settle(work, on_done))
            self._lookups.add(task)
            task.add_done_callback(self._lookups.discard)
        else:
            on_done(work)

    async def _settle(self, work: Work, on_done: Callable[[Work], None]) -> None:
        try:
            await self._lookup.settle(work)
        finally:
            on_done(work)


class _StreamRequests:
    """The requests of one call, which its deadline bounds."""

    def __init__(self, servicer: InferenceServicer, call: Call) -> None:
        self._servicer = servicer
        self._call = call
        self.taken = servicer.wake

    def begin(
        self,
        request: oip.ModelInferRequest,
        on_done: Callable[[Work], None],
        on_response: Callable[[Work, Response], None],
    ) -> Work:
        leave = self._call.enter(request)
        try:
            work = self._servicer.begin(request, self._call, on_done, on_response)
        except BaseException:
            leave()
            raise
        work.leave = leave
        return work

    def leave(self, work: Work) -> None:
        self._servicer.leave(work)
        work.leave()
