"""A replica in this process with real gRPC on a free port, and the calls tests make to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
import numpy as np

from chassis.connections import open_aio_channel
from chassis.edge import Stub
from chassis.infer import decoded_outputs, encoded_inputs, infer_request
from inference_service.replica import Replica
from inference_service.settings import ReplicaSettings
from model_store import Store, open_store
from protos.headrace.v1 import replica_pb2
from protos.inference import grpc_service_pb2 as oip

WITHIN_S = 20.0


def request(
    x: np.ndarray,
    *,
    model: str = "affine",
    version: str = "",
    request_id: str = "",
    outputs: Sequence[str] = (),
    **parameters: int | str,
) -> oip.ModelInferRequest:
    """A ModelInfer request with the input "x"."""
    made = infer_request(
        model=model,
        version=version,
        request_id=request_id,
        inputs=encoded_inputs({"x": x}),
        outputs=outputs,
    )
    for name, value in parameters.items():
        if isinstance(value, str):
            made.parameters[name].string_param = value
        else:
            made.parameters[name].int64_param = value
    return made


class ServedReplica:
    """An async context manager; `infer`, `status` and `stubs` talk to it."""

    def __init__(self, store_url: str, store: Store | None = None, **settings: object) -> None:
        given = {"store": store_url, "port": 0, "models": "affine", "drain_notice_s": 0.0}
        opened = store or open_store(store_url)
        self.replica = Replica(ReplicaSettings(**(given | settings)), opened)

    async def __aenter__(self) -> ServedReplica:
        self.port = await self.replica.start()
        self.channel = open_aio_channel(f"127.0.0.1:{self.port}")
        self.oip = Stub(self.channel, "inference.GRPCInferenceService")
        self.own = Stub(self.channel, "headrace.v1.Replica")
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.channel.close()
        await self.replica.drain()
        await self.replica.stop(0)

    async def wait_ready(self) -> None:
        await self.wait(lambda _: self.replica.readiness.ready)

    async def wait_serving(self, version: int) -> replica_pb2.ReplicaModelStatus:
        return await self.wait(lambda model: model.serving_version == version)

    async def wait(self, condition) -> replica_pb2.ReplicaModelStatus:
        """Polls GetStatus until `condition` holds for its first model."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                found = (await self.status()).models[0]
                if condition(found):
                    return found
                await asyncio.sleep(0.002)

    async def status(self) -> replica_pb2.ReplicaGetStatusResponse:
        # A machine busy with other tests may stall the first connection for long.
        request = replica_pb2.ReplicaGetStatusRequest()
        return await self.own.GetStatus(request, wait_for_ready=True)

    async def infer(self, x: np.ndarray, **how: object) -> tuple[int, np.ndarray]:
        """The version that answered, and output "y"."""
        reply = await self.oip.ModelInfer(request(x, **how))
        return int(reply.model_version), decoded_outputs(reply)["y"]

    async def refusal(self, made: oip.ModelInferRequest) -> tuple[grpc.StatusCode, str]:
        """Status code and sentence of a request that must fail."""
        try:
            await self.oip.ModelInfer(made)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details()
        raise AssertionError("the request succeeded")
