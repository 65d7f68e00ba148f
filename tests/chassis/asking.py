"""A small servicer that tells what its calls were, and servers of it under a protection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chassis.call import Call
from chassis.errors import HeadraceError
from chassis.oip import SERVICE
from chassis.protection import Protection
from chassis.server import RpcServer
from chassis.stream_errors import stream_error
from protos.inference import grpc_service_pb2 as oip


class Asking:
    """Answers who asked; ModelInfer waits for `release` where the id is "wait"."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.entered = asyncio.Event()

    async def ServerMetadata(self, _request, call: Call):
        return oip.ServerMetadataResponse(name=call.identity, version=str(call.control))

    async def ModelInfer(self, request, call: Call):
        if request.id == "wait":
            self.entered.set()
            await self.release.wait()
        return oip.ModelInferResponse(id=str(call.message_bytes), model_name=request.model_name)

    async def ModelStreamInfer(self, requests, call: Call):
        async for request in requests:
            try:
                leave = call.enter(request)
            except HeadraceError as error:
                yield stream_error(error, request.model_name, request.id)
            else:
                reply = oip.ModelInferResponse(id=request.id, model_name=call.identity)
                yield oip.ModelStreamInferResponse(infer_response=reply)
                leave()

    async def ServerReady(self, _request, call: Call):
        return oip.ServerReadyResponse(ready=call.identity == "")

    async def RepositoryIndex(self, _request, _call: Call):
        reply = oip.RepositoryIndexResponse()
        for name in ("a", "b", "c", "b"):
            reply.models.add(name=name)
        return reply

    async def ModelStatistics(self, _request, _call: Call):
        reply = oip.ModelStatisticsResponse()
        for name in ("a", "b"):
            reply.model_stats.add(name=name)
        return reply

    async def RepositoryModelLoad(self, _request, call: Call):
        call.require_control("loading a model")
        return oip.RepositoryModelLoadResponse()


@asynccontextmanager
async def serving(
    protection: Protection | None = None, *, control: bool = False, message_bytes: int = 1 << 22
) -> AsyncIterator[tuple[RpcServer, Asking]]:
    server = RpcServer(
        "127.0.0.1", 0, message_bytes=message_bytes, protection=protection or Protection()
    )
    servicer = Asking()
    server.add_service(SERVICE, servicer, control=control)
    await server.start()
    await server.set_ready(True)
    try:
        yield server, servicer
    finally:
        servicer.release.set()
        await server.stop(0)
