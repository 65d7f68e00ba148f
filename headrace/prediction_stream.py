"""Many requests over one stream: each sent when it is asked, answered when it is done.

A message on a stream costs the server a fraction of a call of its own. Answers come in any order
and find their request by id; an error of one request ends that request alone. `outstanding` bounds
how many wait for an answer: asking one more blocks (or waits) until one is there.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from chassis.edge import Stub, error_from_rpc
from chassis.errors import FailedPrecondition, HeadraceError, Unavailable, Unimplemented
from headrace.prediction import (
    Arrays,
    Options,
    Prediction,
    failure_in,
    is_final,
    prediction_of,
    seconds_left,
    stream_request_of,
)
from protos.inference import grpc_service_pb2 as oip

DEFAULT_OUTSTANDING = 128


class _Waiting:
    """Requests sent and not yet answered, by the id they travel under."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._futures: dict[str, tuple[Any, str]] = {}

    def add(self, future: Any, request_id: str) -> str:
        wire_id = str(next(self._ids))
        self._futures[wire_id] = (future, request_id)
        return wire_id

    def forget(self, wire_id: str) -> None:
        self._futures.pop(wire_id, None)

    def settle(self, reply: oip.ModelStreamInferResponse) -> bool:
        """Ends the request that a response answers; False where it is none of ours any more."""
        wire_id = reply.infer_response.id
        if wire_id not in self._futures:
            return False
        future, request_id = self._futures.pop(wire_id)
        try:
            outcome: Prediction | HeadraceError = _outcome(reply, request_id)
        except HeadraceError as error:
            outcome = error
        _end(future, outcome)
        return True

    def fail_all(self, error: HeadraceError) -> int:
        failed, self._futures = self._futures, {}
        for future, _ in failed.values():
            _end(future, error)
        return len(failed)


def _outcome(reply: oip.ModelStreamInferResponse, request_id: str) -> Prediction | HeadraceError:
    failure = failure_in(reply)
    if failure is not None:
        return failure
    if not is_final(reply):
        return Unimplemented(
            "DECOUPLED_MODEL", "the model gives several responses to a request: use generate()"
        )
    return prediction_of(reply.infer_response, request_id)


def _end(future: Any, outcome: Prediction | HeadraceError) -> None:
    if future.done():
        return
    if isinstance(outcome, HeadraceError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _ended() -> FailedPrecondition:
    return FailedPrecondition("STREAM_CLOSED", "the stream is closed: open another one")


class PredictionStream:
    """Made by `Client.stream`; a context manager. Safe to share between threads."""

    def __init__(self, stub: Stub, timeout_s: float, outstanding: int) -> None:
        self._timeout_s = timeout_s
        self._room = threading.BoundedSemaphore(outstanding)
        self._outbox: queue.SimpleQueue[oip.ModelInferRequest | None] = queue.SimpleQueue()
        self._waiting = _Waiting()
        self._lock = threading.Lock()
        self._closed = False
        self._call = stub.ModelStreamInfer(iter(self._outbox.get, None))
        self._reader = threading.Thread(target=self._read, name="prediction-stream", daemon=True)
        self._reader.start()

    def predict(self, model: str, inputs: Arrays, **options: Unpack[Options]) -> Future[Prediction]:
        """Sends a request; the future ends as `Client.predict` would, or Unavailable if the
        stream breaks. Blocks while `outstanding` requests wait. A request that was sent cannot be
        cancelled.
        """
        timeout_s = seconds_left(options, self._timeout_s)
        request = stream_request_of(model, inputs, options, wire_id="", timeout_s=timeout_s)
        self._room.acquire()
        future: Future[Prediction] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self._closed:
                self._room.release()
                raise _ended()
            request.id = self._waiting.add(future, options.get("request_id", ""))
            self._outbox.put(request)
        return future

    def close(self) -> None:
        """Sends nothing more, waits for the answers under way and ends the stream."""
        self._half_close()
        self._reader.join()

    def cancel(self) -> None:
        """Ends the stream at once; requests without an answer fail."""
        self._half_close()
        self._call.cancel()
        self._reader.join()

    def _half_close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._outbox.put(None)

    def _read(self) -> None:
        error: HeadraceError = Unavailable("STREAM_ENDED", "the server ended the stream")
        try:
            for reply in self._call:
                with self._lock:
                    settled = self._waiting.settle(reply)
                if settled:
                    self._room.release()
        except grpc.RpcError as broken:
            error = error_from_rpc(broken)
        self._half_close()
        with self._lock:
            failed = self._waiting.fail_all(error)
        for _ in range(failed):
            self._room.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.cancel()


class AsyncPredictionStream:
    """Made by `AsyncClient.stream`; an async context manager, of the running loop."""

    def __init__(self, stub: Stub, timeout_s: float, outstanding: int) -> None:
        self._timeout_s = timeout_s
        self._room = asyncio.Semaphore(outstanding)
        self._waiting = _Waiting()
        self._closed = False
        self._call = stub.ModelStreamInfer()
        # One write at a time: gRPC takes no second one before the first is through.
        self._writing = asyncio.Lock()
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def predict(self, model: str, inputs: Arrays, **options: Unpack[Options]) -> Prediction:
        """As `AsyncClient.predict`; run several at once. Cancelled, it gives up the answer only."""
        timeout_s = seconds_left(options, self._timeout_s)
        request = stream_request_of(model, inputs, options, wire_id="", timeout_s=timeout_s)
        async with self._room:
            if self._closed:
                raise _ended()
            future: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
            request.id = self._waiting.add(future, options.get("request_id", ""))
            try:
                await self._write(request)
                return await future
            finally:
                self._waiting.forget(request.id)

    async def close(self) -> None:
        """Sends nothing more, waits for the answers under way and ends the stream."""
        if not self._closed:
            self._closed = True
            async with self._writing:
                await self._call.done_writing()
        await asyncio.wait([self._reader])

    async def cancel(self) -> None:
        """Ends the stream at once; requests without an answer fail."""
        self._closed = True
        self._call.cancel()
        await asyncio.wait([self._reader])

    async def _write(self, request: oip.ModelInferRequest) -> None:
        async with self._writing:
            try:
                await self._call.write(request)
            except (grpc.RpcError, asyncio.InvalidStateError):
                # The call is over; the reader fails what waits, with the reason.
                await asyncio.wait([self._reader])

    async def _read(self) -> None:
        error: HeadraceError = Unavailable("STREAM_ENDED", "the server ended the stream")
        try:
            async for reply in self._call:
                self._waiting.settle(reply)
        except grpc.RpcError as broken:
            error = error_from_rpc(broken)
        except asyncio.CancelledError:
            error = Unavailable("CANCELLED", "the stream was cancelled")
        self._closed = True
        self._waiting.fail_all(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.close()
        else:
            await self.cancel()


def ended_early() -> Unavailable:
    """The error of a request whose stream ended before its last response."""
    return Unavailable("STREAM_ENDED", "the server ended the stream before the last response")


def generated(open_call: Callable[[], Any], request_id: str) -> Iterator[Prediction]:
    """The responses of a call's one request, as they come; leaving early cancels the call."""
    call = open_call()
    try:
        for reply in call:
            failure = failure_in(reply)
            if failure is not None:
                raise failure
            if reply.infer_response.outputs:
                yield prediction_of(reply.infer_response, request_id)
            if is_final(reply):
                return
        raise ended_early()
    except grpc.RpcError as error:
        raise error_from_rpc(error) from None
    finally:
        call.cancel()
