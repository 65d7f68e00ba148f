"""A servicer and its HTTP server in this process, for what a real model would only obscure."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from chassis.errors import InvalidArgument, NotFound
from chassis.infer import infer_reply
from chassis.inputs import checked_inputs
from chassis.oip import config_reply, metadata_reply
from chassis.protection import Protection
from chassis.rest.server import HttpServer
from chassis.rest.settings import HttpLimits, HttpSettings
from chassis.stream_errors import stream_error
from chassis.tensors import NUMPY_TYPES, Signature, TensorSpec
from protos.inference import grpc_service_pb2 as oip

LIMITS = HttpSettings().http_limits(4 * 1024 * 1024)
SPEC = TensorSpec
SIGNATURES = {
    f"echo_{datatype.lower()}": Signature(
        (SPEC("in", datatype, (-1, -1)),), (SPEC("out", datatype, (-1, -1)),), 64
    )
    for datatype in NUMPY_TYPES
} | {
    "flat": Signature((SPEC("in", "FP32", (3,)),), (SPEC("out", "FP32", (3,)),), 0),
    "words": Signature(
        (SPEC("text_input", "BYTES", (-1, 1)), SPEC("count", "INT32", (-1, 1))),
        (SPEC("text_output", "BYTES", (-1, 1)),),
        8,
        decoupled=True,
    ),
}


class Servicer:
    """Echo models of every datatype, and a decoupled one that says a word `count` times."""

    def __init__(self) -> None:
        self.requests: list[oip.ModelInferRequest] = []
        self.calls = []
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        # Ends a stream with `RuntimeError` before its answer of that index.
        self.fails_at = -1
        self.stream_ended = asyncio.Event()

    def _signature(self, name: str) -> Signature:
        if name not in SIGNATURES:
            raise NotFound("MODEL_NOT_FOUND", f"model {name!r} is unknown", field="model_name")
        return SIGNATURES[name]

    async def ServerLive(self, _request, _call):
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, _request, _call):
        return oip.ServerReadyResponse(ready=False)

    async def ModelMetadata(self, request, _call):
        return metadata_reply(request.name, ["7"], self._signature(request.name))

    async def ModelConfig(self, request, _call):
        return config_reply(request.name, self._signature(request.name))

    async def ModelInfer(self, request, call):
        self.requests.append(request)
        self.calls.append(call)
        await self._pass()
        signature = self._signature(request.model_name)
        inputs = checked_inputs(request, signature)
        outputs = [(signature.outputs[0], inputs.shapes[0], inputs.raw[0])]
        return infer_reply(
            model=request.model_name, version="7", request_id=request.id, outputs=outputs
        )

    async def ModelStreamInfer(self, requests, call):
        async for request in requests:
            self.requests.append(request)
            try:
                async for reply in self._say(request):
                    yield reply
            finally:
                self.stream_ended.set()

    async def _say(self, request):
        inputs = checked_inputs(request, self._signature(request.model_name))
        count = int.from_bytes(inputs.raw[1], "little", signed=True)
        spec = SIGNATURES["words"].outputs[0]
        for index in range(count):
            await self._pass()
            if index == self.fails_at:
                raise RuntimeError("/secret/path")
            yield oip.ModelStreamInferResponse(
                infer_response=infer_reply(
                    model="words",
                    version="7",
                    request_id=request.id,
                    outputs=[(spec, (1, 1), inputs.raw[0])],
                )
            )
        if count < 0:
            error = InvalidArgument("BAD_COUNT", "count is negative", field="inputs[1]")
            yield stream_error(error, "words", request.id)
        else:
            final = oip.ModelStreamInferResponse()
            final.infer_response.parameters["triton_final_response"].bool_param = True
            yield final

    async def _pass(self) -> None:
        self.entered.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error

    async def TraceSetting(self, request, _call):
        self.requests.append(request)
        reply = oip.TraceSettingResponse()
        reply.settings["trace_level"].value.append("OFF")
        reply.settings["trace_rate"].value.append("1000")
        return reply

    async def LogSettings(self, request, _call):
        self.requests.append(request)
        reply = oip.LogSettingsResponse()
        reply.settings["log_info"].bool_param = True
        reply.settings["log_verbose_level"].uint32_param = 2
        reply.settings["log_format"].string_param = "default"
        return reply

    async def RepositoryIndex(self, request, _call):
        self.requests.append(request)
        reply = oip.RepositoryIndexResponse()
        reply.models.add(name="flat", version="7", state="READY")
        reply.models.add(name="gone", version="1", state="UNAVAILABLE", reason="unloaded")
        return reply

    async def RepositoryModelLoad(self, request, call):
        self.requests.append(request)
        call.require_control("loading a model")
        return oip.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request, _call):
        self.requests.append(request)
        return oip.RepositoryModelUnloadResponse()

    async def SystemSharedMemoryStatus(self, request, _call):
        self.requests.append(request)
        reply = oip.SystemSharedMemoryStatusResponse()
        region = reply.regions["r"]
        region.name, region.key, region.byte_size = "r", "/k", 2**40
        return reply

    async def SystemSharedMemoryRegister(self, request, _call):
        self.requests.append(request)
        return oip.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(self, request, _call):
        self.requests.append(request)
        return oip.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryRegister(self, request, _call):
        self.requests.append(request)
        return oip.CudaSharedMemoryRegisterResponse()


class Served:
    """An async context manager; `port` is where the servicer answers."""

    def __init__(
        self, *, control: bool = False, protection: Protection | None = None, **limits: float
    ) -> None:
        self.servicer = Servicer()
        self.limits: HttpLimits = replace(LIMITS, **limits)
        self.server = HttpServer(
            self.servicer,
            "127.0.0.1",
            0,
            limits=self.limits,
            control=control,
            protection=protection,
        )
        self.port = 0

    async def __aenter__(self) -> Served:
        self.port = await self.server.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.server.stop(0)

    @property
    def held_bytes(self) -> int:
        return self.server._app.budget.held
