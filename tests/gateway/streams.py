"""A caller's stream in tests: Triton's asyncio client, one request at a time when told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from tests.gateway.calls import Client, rows, tensor

FINAL = "triton_final_response"


class Stream:
    """`client.stream_infer` with a queue before it; `answers` are (id, result or error)."""

    def __init__(self, client: Client, **options: Any) -> None:
        self._requests: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.replies = client.stream_infer(self._iterate(), **options)

    async def _iterate(self) -> AsyncIterator[dict[str, Any]]:
        while (request := await self._requests.get()) is not None:
            yield request

    def ask(self, request_id: str, x: np.ndarray | None = None, **options: Any) -> None:
        """Asks the model `sum`, or the `model_name` given with its `inputs`."""
        inputs = [tensor("x", rows() if x is None else x, "FP32")]
        request = {"model_name": "sum", "inputs": inputs, "request_id": request_id}
        self._requests.put_nowait(request | options)

    def half_close(self) -> None:
        """No further request comes."""
        self._requests.put_nowait(None)

    async def next(self) -> tuple[Any, Any]:
        """The next result or error."""
        return await anext(aiter(self.replies))

    async def results(self, count: int) -> dict[str, Any]:
        """So many results, by id; none may be an error."""
        found = {}
        for _ in range(count):
            result, error = await self.next()
            assert error is None, error
            found[result.get_response().id] = result
        return found

    async def rest(self) -> list[tuple[Any, Any]]:
        """All that comes until the stream ends."""
        return [answer async for answer in self.replies]


def final_of(result: Any) -> bool | None:
    """What a result says of being the last of its request; None if nothing."""
    parameters = result.get_response().parameters
    return parameters[FINAL].bool_param if FINAL in parameters else None


def message(request_id: str, x: np.ndarray | None = None, **changes: Any) -> Any:
    """A ModelInferRequest for the model `sum`, for tests below Triton's client."""
    array = rows() if x is None else x
    made = service_pb2.ModelInferRequest(**{"model_name": "sum", "id": request_id} | changes)
    made.inputs.add(name="x", datatype="FP32", shape=array.shape)
    made.raw_input_contents.append(array.tobytes())
    return made


def open_stream(channel: Any, requests: Any = None, **options: Any) -> Any:
    """A bare ModelStreamInfer call, whose errors show all their fields."""
    return channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
    )(requests, **options)
