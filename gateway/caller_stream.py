"""One caller's ModelStreamInfer call: many requests in flight, each answered when it is done.

Answers come in any order, matched by id. An error of one request goes into its answer and the
stream stays open. It ends when the caller half-closes or the gateway drains, in both cases after
the last answer. Cancelled, it withdraws what waits and abandons what runs.

Memory is bounded whatever the caller does: requests unanswered and answers unread count together,
and at the bound no further request is read, so that the flow control of HTTP/2 holds the caller up.
Responses of a decoupled request wait, each for room, in the replica.

No task or future is made for a request: its ticket puts the answer into the outbox.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from chassis.errors import HeadraceError
from chassis.stream_errors import EMPTY_FINAL_PARAMETER, stream_error, stream_reply
from gateway.ingress.request import OVERHEAD_BYTES, Request
from protos.inference import grpc_service_pb2 as oip


@dataclass(frozen=True, slots=True)
class StreamBounds:
    """What one stream may hold: requests not yet answered in full, and the bytes of these and of
    answers that the caller has not read; `responses` of decoupled requests that it has not read.
    """

    requests: int
    size_bytes: int
    responses: int


class Ticket:
    """One request of a stream; implements `ingress.answer.Responses`."""

    __slots__ = ("_callbacks", "_done", "_held", "_stream", "empty_final", "id", "model", "request")

    def __init__(self, stream: CallerStream, message: oip.ModelInferRequest) -> None:
        self._stream = stream
        self._done = False
        self._callbacks: list[Callable[[Any], object]] = []
        # Kept back until it is known whether it is the last one.
        self._held: oip.ModelInferResponse | None = None
        self.id = message.id
        self.model = message.model_name
        self.empty_final = (
            EMPTY_FINAL_PARAMETER in message.parameters
            and message.parameters[EMPTY_FINAL_PARAMETER].bool_param
        )
        # Set once it was admitted.
        self.request: Request | None = None

    def done(self) -> bool:
        """As `Answer.done`."""
        return self._done

    def set_result(self, reply: oip.ModelInferResponse, /) -> None:
        """As `Answer.set_result`; of a decoupled request, as `Responses.set_result`."""
        if self._held is not None:
            reply, self._held = self._held, None
        self._end(stream_reply(reply, final=True))

    def set_exception(self, error: HeadraceError, /) -> None:
        """As `Answer.set_exception`."""
        if self._held is not None:
            self._stream.put(stream_reply(self._held, final=False))
            self._held = None
        self._end(stream_error(error, self.model, self.id))

    def add_done_callback(self, callback: Callable[[Any], object], /) -> None:
        """As `Answer.add_done_callback`; called at the end itself."""
        self._callbacks.append(callback)

    def respond(self, reply: oip.ModelInferResponse) -> None:
        """As `Responses.respond`."""
        if self.empty_final:
            self._stream.put(stream_reply(reply, final=False))
            return
        ready, self._held = self._held, reply
        if ready is not None:
            self._stream.put(stream_reply(ready, final=False))

    @property
    def full(self) -> bool:
        """As `Responses.full`."""
        return self._stream.full

    async def wait_room(self) -> None:
        """As `Responses.wait_room`."""
        await self._stream.wait_room()

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        self._done = True
        self._held = None
        self._call_back()

    def _end(self, message: oip.ModelStreamInferResponse) -> None:
        self._done = True
        self._stream.put_last(message, self)
        self._call_back()

    def _call_back(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)


# Begins a request whose answer goes to the ticket; raises HeadraceError if it is refused.
Begin = Callable[[oip.ModelInferRequest, Ticket], Request]
Withdraw = Callable[[Request], None]


class CallerStream:
    """Owned by the handler that iterates `replies`; `withdraw` is told who went away unanswered."""

    def __init__(self, begin: Begin, withdraw: Withdraw, bounds: StreamBounds) -> None:
        self._begin = begin
        self._withdraw = withdraw
        self._bounds = bounds
        self._outbox: deque[tuple[oip.ModelStreamInferResponse, int, int]] = deque()
        self._unanswered: set[Ticket] = set()
        # Requests whose last message has not been taken, and the bytes of unread messages and of
        # unanswered requests.
        self._requests = 0
        self._unread_bytes = 0
        self._unanswered_bytes = 0
        self._filled = asyncio.Event()
        self._space = asyncio.Event()
        self._room = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._reading = True
        self._failure: Exception | None = None

    async def replies(
        self, messages: AsyncIterator[oip.ModelInferRequest]
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        """Yields the answers. Raises what reading `messages` raised, after the last answer."""
        self._reader = asyncio.get_running_loop().create_task(self._read(messages))
        try:
            while True:
                while self._outbox:
                    message, size_bytes, ended = self._outbox.popleft()
                    yield message
                    self._on_taken(size_bytes, ended)
                if not self._reading and not self._unanswered:
                    break
                self._filled.clear()
                await self._filled.wait()
            if self._failure is not None:
                raise self._failure
        finally:
            self._reader.cancel()
            self._abandon()

    def stop_reading(self) -> None:
        """Takes no more requests; the stream ends after the last answer."""
        if self._reader is not None:
            self._reader.cancel()

    def put(self, message: oip.ModelStreamInferResponse, ended: int = 0) -> None:
        """A message for the caller; `ended` is 1 if it is the last of its request."""
        size_bytes = _size_bytes(message)
        self._unread_bytes += size_bytes
        self._outbox.append((message, size_bytes, ended))
        self._filled.set()

    def put_last(self, message: oip.ModelStreamInferResponse, ticket: Ticket) -> None:
        """The message that ends the ticket's request."""
        self._release(ticket)
        self.put(message, ended=1)

    @property
    def full(self) -> bool:
        """Whether responses of decoupled requests have to wait."""
        bounds = self._bounds
        return len(self._outbox) >= bounds.responses or self._unread_bytes >= bounds.size_bytes

    async def wait_room(self) -> None:
        """Returns once `full` is no longer true."""
        while self.full:
            self._room.clear()
            await self._room.wait()

    async def _read(self, messages: AsyncIterator[oip.ModelInferRequest]) -> None:
        try:
            async for message in messages:
                self._take(message)
                while self._crowded():
                    self._space.clear()
                    await self._space.wait()
        except Exception as error:
            self._failure = error
        finally:
            self._reading = False
            # Wakes `replies`, which may wait for an answer that never comes.
            self._filled.set()

    def _take(self, message: oip.ModelInferRequest) -> None:
        ticket = Ticket(self, message)
        self._requests += 1
        try:
            request = self._begin(message, ticket)
        except HeadraceError as error:
            ticket.set_exception(error)
            return
        ticket.request = request
        self._unanswered.add(ticket)
        self._unanswered_bytes += request.size_bytes

    def _crowded(self) -> bool:
        bounds = self._bounds
        held_bytes = self._unanswered_bytes + self._unread_bytes
        return self._requests >= bounds.requests or held_bytes >= bounds.size_bytes

    def _on_taken(self, size_bytes: int, ended: int) -> None:
        self._unread_bytes -= size_bytes
        self._requests -= ended
        self._space.set()
        self._room.set()

    def _release(self, ticket: Ticket) -> None:
        request, ticket.request = ticket.request, None
        if request is not None:
            self._unanswered.discard(ticket)
            self._unanswered_bytes -= request.size_bytes

    def _abandon(self) -> None:
        unanswered, self._unanswered = self._unanswered, set()
        for ticket in unanswered:
            ticket.cancel()
            if ticket.request is not None:
                self._withdraw(ticket.request)
        self._outbox.clear()


def _size_bytes(message: oip.ModelStreamInferResponse) -> int:
    """What counts of a message. `ByteSize` serializes it, which large raw tensors are spared."""
    raw = message.infer_response.raw_output_contents
    return OVERHEAD_BYTES + sum(map(len, raw)) if raw else OVERHEAD_BYTES + message.ByteSize()
