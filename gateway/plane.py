"""The data plane: requests in, answers out, whichever protocol carries them.

It finds the request's model and deadline and lets it wait behind the door; the rest is the door's
and the dispatcher's. Both shapes of a call are here: one request for one answer, and a stream.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable

from chassis.call import Call
from chassis.errors import HeadraceError, Unavailable, Unimplemented
from chassis.limits import Limits, check_limits
from chassis.shared_memory import SharedMemory
from gateway import metrics
from gateway.caller_stream import CallerStream, StreamBounds, Ticket
from gateway.catalog import Catalog, ServedModel
from gateway.fleet import Fleet
from gateway.ingress.answer import Answer, Responses
from gateway.ingress.door import Ingress, draining, refusal
from gateway.ingress.objective import Objectives
from gateway.ingress.priority import Priorities
from gateway.ingress.request import Request, timeout_parameter_s
from gateway.policy.batching import Reject
from gateway.policy.rollout import Rollouts
from gateway.statistics import Ledger
from protos.inference import grpc_service_pb2 as oip


class DataPlane:
    """Belongs to the running loop; `wake` tells dispatch that a request waits."""

    def __init__(
        self,
        ingress: Ingress,
        catalog: Catalog,
        fleet: Fleet,
        ledger: Ledger,
        *,
        wake: Callable[[], None],
        default_timeout_s: float,
        generation_timeout_s: float,
        stream_bounds: StreamBounds,
        priorities: Priorities,
        objectives: Objectives,
        limits: Limits,
        memory: SharedMemory,
        rollouts: Rollouts,
    ) -> None:
        self._rollouts = rollouts
        self._limits = limits
        self._memory = memory
        self._ingress = ingress
        self._catalog = catalog
        self._fleet = fleet
        self._ledger = ledger
        self._wake = wake
        self._default_timeout_s = default_timeout_s
        self._generation_timeout_s = generation_timeout_s
        self._stream_bounds = stream_bounds
        self._priorities = priorities
        self._objectives = objectives
        self._loop = asyncio.get_running_loop()
        self._streams: set[CallerStream] = set()
        self._closed = False
        self._all_ended = asyncio.Event()
        self._all_ended.set()

    async def infer(self, message: oip.ModelInferRequest, call: Call) -> oip.ModelInferResponse:
        """Raises what `Request` and `Ingress.offer` refuse, and what the batch ended with.

        Also Unimplemented (DECOUPLED_MODEL).
        """
        answer: asyncio.Future[oip.ModelInferResponse] = self._loop.create_future()
        request = self._begin(message, call, answer)
        try:
            return await answer
        except asyncio.CancelledError:
            # Cancelled, the answer was not there yet: the caller went away.
            if answer.cancelled():
                self._withdraw(request)
            raise

    async def stream(
        self, messages: AsyncIterator[oip.ModelInferRequest], call: Call
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        """Many requests at once, answered as they finish; see `CallerStream`.

        Raises Unavailable (DRAINING) after `end_streams`, and InvalidArgument (MALFORMED_MESSAGE)
        after the last answer.
        """
        if self._closed:
            raise draining()

        def begin(message: oip.ModelInferRequest, ticket: Ticket) -> Request:
            leave = call.enter(message)
            try:
                request = self._begin(message, call, ticket, ticket)
            except BaseException:
                leave()
                raise
            ticket.add_done_callback(lambda _ticket: leave())
            return request

        stream = CallerStream(begin, self._withdraw, self._stream_bounds)
        self._streams.add(stream)
        self._all_ended.clear()
        metrics.STREAMS.inc()
        try:
            async for reply in stream.replies(messages):
                yield reply
        finally:
            metrics.STREAMS.dec()
            self._streams.discard(stream)
            if not self._streams:
                self._all_ended.set()

    def model(self, name: str) -> ServedModel:
        """The model. Raises NotFound (MODEL_NOT_FOUND).

        Before any replica was heard, when no model is known yet, Unavailable (NO_READY_REPLICA).
        """
        return self._catalog.get(name) or self._known(name)

    def end_streams(self) -> None:
        """Every open stream takes no more requests and ends after its last answer; none opens."""
        self._closed = True
        for stream in self._streams:
            stream.stop_reading()

    async def wait_streams_ended(self) -> None:
        """Returns once no stream is open."""
        await self._all_ended.wait()

    def _begin(
        self,
        message: oip.ModelInferRequest,
        call: Call,
        answer: Answer,
        responses: Responses | None = None,
    ) -> Request:
        now = time.monotonic()
        model = self.model(message.model_name)
        try:
            check_limits(message, self._limits)
            if model.signature.decoupled and responses is None:
                raise _decoupled(model.name)
            default_s = (
                self._generation_timeout_s if model.signature.decoupled else self._default_timeout_s
            )
            deadline = _deadline(message, call, now, default_s)
            request = Request(
                message,
                model,
                now=now,
                deadline=deadline,
                answer=answer,
                responses=responses,
                caller=call.identity,
                priorities=self._priorities,
                objectives=self._objectives,
                limits=self._limits,
                regions=self._memory.of(call.identity),
            )
            candidate = self._rollouts.current(model.name)
            if (
                candidate is not None
                and request.open_to_candidate
                and candidate.takes(request.session, random.random())
            ):
                request.try_candidate(candidate.version)
            verdict = self._ingress.offer(request, now)
            if isinstance(verdict, Reject):
                raise refusal(verdict, request)
        except HeadraceError as error:
            self._ledger.on_refused(model.name, error.code.name)
            raise
        if self._ledger.tracing.on:
            request.queued_at = time.monotonic()
        self._wake()
        return request

    def _withdraw(self, request: Request) -> None:
        self._ingress.withdraw(request, time.monotonic())
        # A drain may have waited for this one.
        self._wake()

    def _known(self, name: str) -> ServedModel:
        if not self._fleet.heard:
            raise Unavailable("NO_READY_REPLICA", "no replica has answered the gateway yet")
        return self._catalog.model(name)


def _deadline(message: oip.ModelInferRequest, call: Call, now: float, default_s: float) -> float:
    """The earlier of the client's gRPC deadline and `timeout`; the default if neither is."""
    remaining_s: float | None = call.time_remaining()
    if message.parameters:
        granted_s = timeout_parameter_s(message.parameters)
        if granted_s is not None:
            return now + (granted_s if remaining_s is None else min(granted_s, remaining_s))
    return now + (default_s if remaining_s is None else remaining_s)


def _decoupled(model: str) -> Unimplemented:
    return Unimplemented(
        "DECOUPLED_MODEL",
        f"model {model!r} answers a request with any number of responses; ask it by "
        "ModelStreamInfer",
        field="model_name",
    )
