"""One ModelStreamInfer call: several batches in flight, each answered when it is done.

Requests and answers are matched by id, in any order. An error of one request goes into its answer
and the stream stays open. The stream ends when the caller half-closes or the replica drains, in
both cases after the batches in flight. No task is made for a batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from chassis.errors import HeadraceError
from chassis.stream_errors import stream_error
from inference_service.answers import stream_reply_of
from inference_service.work import Work
from protos.inference import grpc_service_pb2 as oip

# Begins a request; raises HeadraceError if it is refused at the door.
Begin = Callable[[Any, Callable[[Work], None]], Work]
Ended = Callable[[Work], None]


class InferStream:
    """Owned by the handler that iterates `replies`.

    `begin` hands a request on and promises one call of the callback given to it; `leave` is told
    when work's answer has been taken or its caller is gone.
    """

    def __init__(self, begin: Begin, leave: Ended) -> None:
        self._begin = begin
        self._leave = leave
        self._in_flight: set[Work] = set()
        self._answers: asyncio.Queue[Work | oip.ModelStreamInferResponse | None] = asyncio.Queue()
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
                if isinstance(answer, Work):
                    self._in_flight.discard(answer)
                    self._leave(answer)
                    yield stream_reply_of(answer)
                elif answer is not None:
                    yield answer
            if self._failure is not None:
                raise self._failure
        finally:
            self._reader.cancel()
            self._abandon()

    def stop_reading(self) -> None:
        """Takes no more requests; the stream ends after the batches in flight."""
        if self._reader is not None:
            self._reader.cancel()

    async def _read(self, requests: AsyncIterator[oip.ModelInferRequest]) -> None:
        try:
            async for request in requests:
                self._take(request)
        except Exception as error:
            self._failure = error
        finally:
            self._reading = False
            # Wakes `replies`, which may wait for an answer that never comes.
            self._answers.put_nowait(None)

    def _take(self, request: oip.ModelInferRequest) -> None:
        try:
            work = self._begin(request, self._answers.put_nowait)
        except HeadraceError as error:
            self._answers.put_nowait(stream_error(error, request.model_name, request.id))
        else:
            self._in_flight.add(work)

    def _abandon(self) -> None:
        for work in self._in_flight:
            work.abandoned = True
            self._leave(work)
        self._in_flight.clear()
