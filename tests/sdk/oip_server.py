"""An OIP server in a thread of this process that records what clients send it.

Model "echo" gives its input back, "count" is decoupled and counts from 0 to below x, "slow" answers
only once `release` is set, and "poison" refuses its input.
"""

from __future__ import annotations

import asyncio
import threading

import numpy as np

from chassis.errors import HeadraceError, InvalidArgument, Unimplemented
from chassis.infer import infer_reply
from chassis.oip import SERVICE, config_reply, metadata_reply
from chassis.protection import Protection
from chassis.server import RpcServer
from chassis.stream_errors import FINAL_PARAMETER, stream_error
from chassis.tensors import Signature, TensorSpec
from protos.inference import grpc_service_pb2 as oip

Y = TensorSpec("y", "INT64", (-1, 1))


def signature(model: str) -> Signature:
    return Signature((TensorSpec("x", "INT64", (-1, 1)),), (Y,), 8, decoupled=model == "count")


def answer(request, values) -> oip.ModelInferResponse:
    array = np.array(values, dtype=np.int64).reshape(-1, 1)
    return infer_reply(
        model=request.model_name,
        version="7",
        request_id=request.id,
        outputs=[(Y, array.shape, array.tobytes())],
    )


def marked(response, final: bool) -> oip.ModelStreamInferResponse:
    response.parameters[FINAL_PARAMETER].bool_param = final
    return oip.ModelStreamInferResponse(infer_response=response)


class Servicer:
    async def ModelMetadata(self, request, _call):
        return metadata_reply(request.name, ["7"], signature(request.name))

    async def ModelConfig(self, request, _call):
        return config_reply(request.name, signature(request.name))

    def __init__(self) -> None:
        self.requests: list[oip.ModelInferRequest] = []
        self.deadlines: list[float | None] = []
        self.cancelled = threading.Event()
        self.release = threading.Event()

    def _values(self, request) -> np.ndarray:
        if request.model_name == "poison":
            raise InvalidArgument("BAD_VALUE", "no such value", field="raw_input_contents[0]")
        return np.frombuffer(request.raw_input_contents[0], dtype=np.int64)

    async def ModelInfer(self, request, call):
        self.requests.append(request)
        self.deadlines.append(call.time_remaining())
        if request.model_name == "count":
            raise Unimplemented("DECOUPLED_MODEL", "use ModelStreamInfer")
        return answer(request, self._values(request))

    async def ModelStreamInfer(self, requests, _call):
        try:
            async for request in requests:
                self.requests.append(request)
                if request.model_name == "broken":
                    return
                try:
                    async for reply in self._replies(request):
                        yield reply
                except HeadraceError as error:
                    # As our servers do: a status would end the stream, and whatever waits on it.
                    yield stream_error(error, request.model_name, request.id)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise

    async def _replies(self, request):
        values = self._values(request)
        if request.model_name == "count":
            for value in range(int(values[0])):
                yield marked(answer(request, value), final=False)
                await asyncio.sleep(0)
            yield marked(
                oip.ModelInferResponse(model_name="count", model_version="7", id=request.id), True
            )
        else:
            if request.model_name == "slow":
                await asyncio.to_thread(self.release.wait)
            yield marked(answer(request, values), final=True)


class OipServer:
    """A context manager; `address` is where it listens."""

    def __init__(self, protection: Protection | None = None) -> None:
        self.servicer = Servicer()
        self._protection = protection or Protection()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = RpcServer("127.0.0.1", 0, protection=self._protection)
        server.add_service(SERVICE, self.servicer)
        self.address = f"127.0.0.1:{await server.start()}"
        self._started.set()
        await self._stop.wait()
        await server.stop(0)

    def __enter__(self) -> OipServer:
        self._thread.start()
        assert self._started.wait(20)
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
