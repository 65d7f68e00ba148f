"""One ModelStreamInfer call: several requests in flight, each answered when it is done.

Requests and answers are matched by id, in any order. An error of one request goes into its answer
and the stream stays open. The stream ends when the caller half-closes or the replica drains, in
both cases after the requests in flight. No task is made for a request.

Decides how a decoupled model's end shows (on its last response, or as a response of its own), and
when no more is read: while `max_requests` requests lack the last answer, or it is not taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from chassis.errors import HeadraceError
from chassis.stream_errors import stream_error
from inference_service.answers import end_of, response_of, stream_reply_of
from inference_service.work import Response, Work
from protos.inference import grpc_service_pb2 as oip

Message = oip.ModelStreamInferResponse


class Requests(Protocol):
    """Where a stream's requests are computed."""

    def begin(
        self,
        request: Any,
        on_done: Callable[[Work], None],
        on_response: Callable[[Work, Response], None],
    ) -> Work:
        """Hands a request on and promises one call of `on_done`, after those of `on_response`.

        Raises HeadraceError if it is refused at the door.
        """

    def taken(self, work: Work) -> None:
        """A response of `work` was taken by the caller."""

    def leave(self, work: Work) -> None:
        """The last answer of `work` has been taken, or its caller is gone."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """One message on its way out: of `work`, unless it was refused at the door."""

    make: Callable[[], Message]
    work: Work | None = None
    last: bool = True


class InferStream:
    """Owned by the handler that iterates `replies`."""

    def __init__(self, requests: Requests, *, max_requests: int) -> None:
        self._requests = requests
        self._max_requests = max_requests
        self._in_flight: set[Work] = set()
        # Responses held back until it is known whether they are the last.
        self._held: dict[Work, Response] = {}
        self._answers: asyncio.Queue[_Answer | None] = asyncio.Queue()
        # Requests read whose last answer has not been taken.
        self._open = 0
        self._room = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._reading = True
        self._failure: Exception | None = None

    async def replies(
        self, requests: AsyncIterator[oip.ModelInferRequest]
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        """Yields the answers. Raises what reading `requests` raised, after the last answer."""
        self._reader = asyncio.create_task(self._read(requests))
        try:
            while self._reading or self._in_flight or not self._answers.empty():
                answer = await self._answers.get()
                if answer is not None:
                    if answer.last and answer.work is not None:
                        self._in_flight.discard(answer.work)
                        self._requests.leave(answer.work)
                    yield answer.make()
                    # Only now the caller has it, or the connection has room for it.
                    self._on_taken(answer)
            if self._failure is not None:
                raise self._failure
        finally:
            self._reader.cancel()
            self._abandon()

    def stop_reading(self) -> None:
        """Takes no more requests; the stream ends after the requests in flight."""
        if self._reader is not None:
            self._reader.cancel()

    async def _read(self, requests: AsyncIterator[oip.ModelInferRequest]) -> None:
        try:
            async for request in requests:
                self._take(request)
                while self._open >= self._max_requests:
                    self._room.clear()
                    await self._room.wait()
        except Exception as error:
            self._failure = error
        finally:
            self._reading = False
            # Wakes `replies`, which may wait for an answer that never comes.
            self._answers.put_nowait(None)

    def _take(self, request: oip.ModelInferRequest) -> None:
        self._open += 1
        try:
            work = self._requests.begin(request, self._on_done, self._on_response)
        except HeadraceError as error:
            refusal = stream_error(error, request.model_name, request.id)
            self._answers.put_nowait(_Answer(lambda: refusal))
        else:
            self._in_flight.add(work)

    def _on_response(self, work: Work, response: Response) -> None:
        if work.empty_final:
            self._send_response(work, response)
            return
        before = self._held.pop(work, None)
        self._held[work] = response
        if before is not None:
            self._send_response(work, before)

    def _on_done(self, work: Work) -> None:
        held = self._held.pop(work, None)
        if not work.signature.decoupled:
            self._answers.put_nowait(_Answer(lambda: stream_reply_of(work), work))
        elif held is not None and work.error is None:
            self._answers.put_nowait(_Answer(lambda: response_of(work, held, final=True), work))
        else:
            if held is not None:
                self._send_response(work, held)
            self._answers.put_nowait(_Answer(lambda: end_of(work), work))

    def _send_response(self, work: Work, response: Response) -> None:
        made = _Answer(lambda: response_of(work, response, final=False), work, last=False)
        self._answers.put_nowait(made)

    def _on_taken(self, answer: _Answer) -> None:
        if not answer.last and answer.work is not None:
            answer.work.responses_taken += 1
            self._requests.taken(answer.work)
        else:
            self._open -= 1
            self._room.set()

    def _abandon(self) -> None:
        for work in self._in_flight:
            work.abandoned = True
            self._requests.leave(work)
            self._requests.taken(work)
        self._in_flight.clear()
        self._held.clear()
