"""One replica as the gateway sees it: its channel, and the batches in flight to it.

Batches travel on one stream, several at a time, matched by id. A server without streams answers
UNIMPLEMENTED: what is in flight then goes by unary calls, and so does all that follows. A unary
call also finds the one message at fault where a stream cannot tell: another server's error
without a code, or a call that ended otherwise than by a lost connection.

Nothing is decided here: what is heard of the endpoint goes to its `Observer`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from chassis.connections import PLAIN, Access, open_aio_channel
from chassis.edge import Stub, error_from_rpc
from chassis.errors import HeadraceError, Internal, Unavailable, Unimplemented
from chassis.oip import SERVICE
from chassis.telemetry import logger
from gateway.dispatch.delivery import Failure, Listener, OnOutcome, Outcome, lost
from gateway.generation_call import GenerationCall
from gateway.ingress.batch import Batch
from gateway.ingress.generation import Generation
from gateway.policy.retry import Fault
from gateway.stream import BatchStream
from gateway.wire import batch_message, call_failure, read_reply, stream_failure
from protos.inference import grpc_service_pb2 as oip

log = logger(__name__)


@dataclass(slots=True, eq=False)
class _Sent:
    batch: Batch
    until: float
    sent_at: float
    done: OnOutcome
    # Set while the batch travels by a call of its own.
    call: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """How endpoints are reached, and the bytes that one message may have."""

    message_bytes: int
    access: Access = PLAIN


class Observer(Protocol):
    """Learns what the traffic tells of an endpoint, before the batches concerned end."""

    def on_heard(self) -> None:
        """An answer came."""

    def on_unavailable(self, reason: str) -> None:
        """It answered that it takes no batches now; others in flight may still be answered."""

    def on_broken(self, reason: str) -> None:
        """Its connection failed; the observer calls `break_off`."""


class Endpoint:
    """Belongs to the running loop; connects when first used."""

    def __init__(self, address: str, observer: Observer, link: Link) -> None:
        self.address = address
        self.streaming = True
        self.batches = 0
        self.failures = 0
        self._channel = open_aio_channel(address, link.message_bytes, link.access)
        self.stub = Stub(self._channel, SERVICE, link.access.metadata)
        self._observer = observer
        self._stream: BatchStream | None = None
        # Whether a stream was answered since the connection was made.
        self._streamed = False
        self._inflight: dict[int, _Sent] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def send(self, delivery_id: int, batch: Batch, timeout_s: float, done: OnOutcome) -> None:
        """Sends a batch whose answer is wanted for `timeout_s`; `done` is called once, later."""
        now = time.monotonic()
        sent = self._inflight[delivery_id] = _Sent(batch, now + timeout_s, now, done)
        if self.streaming:
            self._open_stream().send(batch_message(batch, delivery_id, timeout_s))
        else:
            self._call(delivery_id, sent)

    def generate(
        self, delivery_id: int, generation: Generation, timeout_s: float, listener: Listener
    ) -> None:
        """Sends a decoupled request on a call of its own, which ends when nobody waits for it."""
        now = time.monotonic()
        sent = _Sent(generation, now + timeout_s, now, listener.on_outcome)
        self._inflight[delivery_id] = sent
        sent.call = self._own(self._generate(delivery_id, generation, timeout_s, listener))
        generation.call_when_done(lambda: self.withdraw(delivery_id))

    def withdraw(self, delivery_id: int) -> bool:
        """Ends a decoupled request as lost and cancels its call; False where it is none."""
        sent = self._inflight.get(delivery_id)
        if sent is None or sent.call is None or not isinstance(sent.batch, Generation):
            return False
        del self._inflight[delivery_id]
        sent.call.cancel()
        sent.done(delivery_id, lost())
        return True

    def break_off(self) -> None:
        """Drops the connection's calls: every batch in flight ends as lost, late answers count not.

        The next batch opens a stream again, whatever the server could before.
        """
        self._drop_stream()
        self.streaming, self._streamed = True, False
        inflight, self._inflight = self._inflight, {}
        for delivery_id, sent in inflight.items():
            if sent.call is not None:
                sent.call.cancel()
            self.failures += 1
            sent.done(delivery_id, lost())

    async def close(self) -> None:
        """Breaks off and closes the channel."""
        self.break_off()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._channel.close()

    def _open_stream(self) -> BatchStream:
        if self._stream is None:
            self._stream = BatchStream(self.stub, self._on_stream_reply, self._on_stream_end)
            self._stream.start()
        return self._stream

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._own(self._stream.close())
            self._stream = None

    def _own(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    def _on_stream_reply(self, reply: oip.ModelStreamInferResponse) -> None:
        self._observer.on_heard()
        self._streamed = True
        text = reply.infer_response.id
        delivery_id = int(text) if text.isascii() and text.isdigit() else 0
        sent = self._inflight.get(delivery_id)
        if reply.error_message:
            self._on_stream_error(reply, delivery_id, sent)
        elif sent is not None:
            outcome = read_reply(reply.infer_response, sent.batch, time.monotonic() - sent.sent_at)
            self._end(delivery_id, outcome)

    def _on_stream_error(
        self, reply: oip.ModelStreamInferResponse, delivery_id: int, sent: _Sent | None
    ) -> None:
        failure = stream_failure(reply)
        if sent is not None and failure is not None:
            if failure.fault is Fault.BROKEN:
                self._observer.on_unavailable(failure.error.reason)
            self._end(delivery_id, failure)
        elif sent is not None:
            self._call(delivery_id, sent)
        elif not delivery_id:
            # No id: any batch in flight may be meant. Each is asked for by itself.
            self._call_all()

    def _on_stream_end(self, stream: BatchStream, error: HeadraceError | None) -> None:
        if stream is not self._stream:
            return
        self._stream = None
        if isinstance(error, Unavailable):
            self._observer.on_broken(error.message)
            return
        # grpc.aio overwrites a status by INTERNAL if a write meets the stream's end
        # (grpc/grpc#36066): where no stream was ever answered, it may have been UNIMPLEMENTED.
        if isinstance(error, Unimplemented) or (isinstance(error, Internal) and not self._streamed):
            log.info("endpoint has no streams, batches go unary", endpoint=self.address)
            self.streaming = False
        # Else one message on it was at fault, or the server closed it in peace.
        self._call_all()

    def _call_all(self) -> None:
        for delivery_id, sent in list(self._inflight.items()):
            if sent.call is None:
                self._call(delivery_id, sent)

    def _call(self, delivery_id: int, sent: _Sent) -> None:
        sent.call = self._own(self._infer(delivery_id, sent))

    async def _infer(self, delivery_id: int, sent: _Sent) -> None:
        timeout_s = max(sent.until - time.monotonic(), 0.001)
        message = batch_message(sent.batch, delivery_id, timeout_s)
        outcome: Outcome
        try:
            reply = await self.stub.ModelInfer(message, timeout=timeout_s)
        except grpc.RpcError as error:
            failure = call_failure(error_from_rpc(error))
            if failure.fault is Fault.BROKEN and delivery_id in self._inflight:
                self._observer.on_broken(failure.error.message)
            outcome = failure
        else:
            self._observer.on_heard()
            outcome = read_reply(reply, sent.batch, time.monotonic() - sent.sent_at)
        self._end(delivery_id, outcome)

    async def _generate(
        self, delivery_id: int, generation: Generation, timeout_s: float, listener: Listener
    ) -> None:
        call = GenerationCall(self.stub, delivery_id, generation, listener, self._observer.on_heard)
        outcome = await call.run(timeout_s)
        if isinstance(outcome, Failure) and outcome.fault is Fault.BROKEN:
            # Whether its connection or the replica failed, health checks find out.
            self._observer.on_unavailable(outcome.error.reason)
        self._end(delivery_id, outcome)

    def _end(self, delivery_id: int, outcome: Outcome) -> None:
        sent = self._inflight.pop(delivery_id, None)
        if sent is None:
            return
        self.batches += 1
        sent.done(delivery_id, outcome)
