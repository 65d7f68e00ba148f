"""One long-lived ModelStreamInfer call: messages out in order, replies in as they come.

It knows nothing of batches. A stream ends once: `on_end` gets the error, None where the server
closed it in peace. Messages not yet written are then lost with those not yet answered; whoever
sent them knows which.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc

from chassis.edge import Stub, error_from_rpc
from chassis.errors import HeadraceError, Internal
from chassis.telemetry import logger
from protos.inference import grpc_service_pb2 as oip

log = logger(__name__)

OnReply = Callable[[oip.ModelStreamInferResponse], None]
OnEnd = Callable[["BatchStream", HeadraceError | None], None]


class BatchStream:
    """Opened on construction's `start`; owned by one endpoint on the running loop."""

    def __init__(self, stub: Stub, on_reply: OnReply, on_end: OnEnd) -> None:
        self._stub = stub
        self._on_reply = on_reply
        self._on_end = on_end
        self._outbox: deque[oip.ModelInferRequest] = deque()
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Opens the call."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def send(self, message: oip.ModelInferRequest) -> None:
        """Queues a message; the caller bounds how many are under way."""
        self._outbox.append(message)
        self._filled.set()

    async def close(self) -> None:
        """Cancels the call; `on_end` is not called any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        call = self._stub.ModelStreamInfer()
        writer = asyncio.get_running_loop().create_task(self._write(call))
        error: HeadraceError | None = None
        try:
            error = await self._read(call)
        except Exception as defect:
            log.error("reading a stream failed", exc_info=defect)
            error = Internal("INTERNAL", "reading the stream failed")
        finally:
            writer.cancel()
            call.cancel()
        self._on_end(self, error)

    async def _read(self, call: Any) -> HeadraceError | None:
        try:
            async for reply in call:
                self._on_reply(reply)
        except grpc.RpcError as error:
            return error_from_rpc(error)
        return None

    async def _write(self, call: Any) -> None:
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._outbox:
                try:
                    await call.write(self._outbox.popleft())
                except (grpc.RpcError, asyncio.InvalidStateError):
                    # The call is over; its reader learns why.
                    return
