"""What tests ask a gateway with Triton's client, and how they read the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc
import numpy as np
import pytest
import tritonclient.grpc as wire
import tritonclient.grpc.aio as triton
from google.rpc import error_details_pb2, status_pb2
from tritonclient.utils import InferenceServerException

from chassis.edge import Stub
from gateway.admin import SERVICE as ADMIN
from protos.headrace.v1 import gateway_pb2 as admin
from tests.gateway.processes import Running

Client = triton.InferenceServerClient


def tensor(name: str, array: np.ndarray, datatype: str) -> wire.InferInput:
    """A raw input."""
    made = wire.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def rows(count: int = 1, value: float = 1.0) -> np.ndarray:
    """Rows for the model `sum`."""
    return np.full((count, 4), value, dtype=np.float32)


async def ask(client: Client, x: np.ndarray | None = None, **options) -> wire.InferResult:
    """Sends `x` to the model `sum` and checks that the answer is that of `x`."""
    array = rows() if x is None else x
    result = await client.infer("sum", [tensor("x", array, "FP32")], **options)
    np.testing.assert_array_equal(result.as_numpy("sum"), array.sum(axis=1, keepdims=True))
    np.testing.assert_array_equal(result.as_numpy("copy"), array)
    return result


async def refused(call: Awaitable[object]) -> InferenceServerException:
    """The error a call ends with."""
    with pytest.raises(InferenceServerException) as caught:
        await call
    return caught.value


def code_of(error: InferenceServerException) -> str:
    """The name of the gRPC code behind Triton's exception."""
    return error.status().removeprefix("StatusCode.")


def reason_of(error: grpc.RpcError) -> str:
    """The ErrorInfo reason of a plain gRPC error."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            info = error_details_pb2.ErrorInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return info.reason
    return ""


async def batches_of(replica: Running, model: str = "sum") -> dict[int, int]:
    """Batches that a fake replica ran, by rows."""
    async with triton.InferenceServerClient(replica.address) as client:
        statistics = await client.get_inference_statistics(model)
    return {
        int(entry.batch_size): int(entry.compute_infer.count)
        for model_entry in statistics.model_stats
        if model_entry.name == model
        for entry in model_entry.batch_stats
    }


async def until(holds: Callable[[], Awaitable[bool]], within_s: float = 15.0) -> float:
    """Asks until it holds; the seconds that took."""
    started = time.monotonic()
    while not await holds():
        assert time.monotonic() - started < within_s, "it never came to hold"
        await asyncio.sleep(0.02)
    return time.monotonic() - started


async def status_of(gateway: Running) -> admin.GatewayGetStatusResponse:
    """What the gateway's admin port tells."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.serving['admin_port']}") as channel:
        return await Stub(channel, ADMIN).GetStatus(admin.GatewayGetStatusRequest())


async def until_queued(gateway: Running, count: int, model: str = "sum") -> None:
    """Waits until that many requests of the model wait in the gateway."""

    async def holds() -> bool:
        models = {each.model: each for each in (await status_of(gateway)).models}
        return models[model].queued_requests == count

    await until(holds)


class Load:
    """A closed loop of callers; every answer is checked, every failure kept."""

    def __init__(self, client: Client, callers: int, **options) -> None:
        self._client = client
        self._options = options
        self._callers = callers
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.answered = 0
        self.failures: list[str] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._call(at)) for at in range(self._callers)]
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def answers(self, count: int) -> None:
        """Waits for that many more answers or failures."""
        goal = self.answered + len(self.failures) + count

        async def reached() -> bool:
            return self.answered + len(self.failures) >= goal

        await until(reached, within_s=30.0)

    async def _call(self, number: int) -> None:
        turn = 0
        while not self._stopping:
            turn += 1
            x = rows(1 + (number + turn) % 3, value=number * 1000 + turn % 500)
            try:
                await ask(self._client, x, **self._options)
                self.answered += 1
            except InferenceServerException as error:
                self.failures.append(f"{code_of(error)}: {error.message()}")
