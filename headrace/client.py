"""Clients of a gateway (or of a replica alone): numpy in, numpy out, each answer names its version.

`Client` blocks, `AsyncClient` awaits; they share everything but the wait. Both raise the errors of
`chassis.errors` with the reason the server gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
import numpy.typing as npt

from chassis.connections import open_aio_channel, open_channel
from chassis.edge import Stub, error_from_rpc
from chassis.errors import HeadraceError
from chassis.infer import decoded_outputs, encoded_inputs, infer_request
from chassis.oip import SERVICE, signature_of
from chassis.tensors import Signature
from protos.inference import grpc_service_pb2 as oip

DEFAULT_ADDRESS = "127.0.0.1:8001"
DEFAULT_TIMEOUT_S = 30.0

Arrays = Mapping[str, npt.ArrayLike]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer: output arrays by name, and the model version that computed them."""

    model: str
    version: int
    outputs: dict[str, npt.NDArray[Any]]

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.outputs[name]


def _request(
    model: str,
    inputs: Arrays,
    version: int | None,
    channel: str | None,
    outputs: Sequence[str],
) -> oip.ModelInferRequest:
    request = infer_request(
        model=model,
        version=str(version) if version else "",
        inputs=encoded_inputs(inputs),
        outputs=outputs,
    )
    if channel:
        request.parameters["channel"].string_param = channel
    return request


def _prediction(reply: oip.ModelInferResponse) -> Prediction:
    return Prediction(reply.model_name, int(reply.model_version or 0), decoded_outputs(reply))


def _signature(metadata: Any, config: Any) -> Signature:
    return signature_of(metadata, config.config)


class Client:
    """Blocking client of one address (host:port); safe to share between threads.

    Not before the first call is anything connected. Use it as a context manager or `close` it.
    """

    def __init__(
        self, address: str = DEFAULT_ADDRESS, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        self._timeout_s = timeout_s
        self._channel = open_channel(address)
        self._stub = Stub(self._channel, SERVICE)

    def predict(
        self,
        model: str,
        inputs: Arrays,
        *,
        version: int | None = None,
        channel: str | None = None,
        outputs: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Prediction:
        """Sends arrays by input name, batch dimension first where the model batches.

        `version` pins the answer to one version, `channel` to a channel; `outputs` asks for some
        of the outputs. Raises InvalidArgument, NotFound, FailedPrecondition (the pinned version is
        not loaded), ResourceExhausted, DeadlineExceeded or Unavailable.
        """
        request = _request(model, inputs, version, channel, outputs)
        return _prediction(self._call("ModelInfer", request, timeout_s))

    def signature(self, model: str) -> Signature:
        """What the model takes and gives. Raises NotFound."""
        metadata = self._call("ModelMetadata", oip.ModelMetadataRequest(name=model))
        return _signature(metadata, self._call("ModelConfig", oip.ModelConfigRequest(name=model)))

    def ready(self, model: str = "") -> bool:
        """Whether the server, or one model on it, answers requests; False where nothing listens."""
        try:
            if model:
                return bool(self._call("ModelReady", oip.ModelReadyRequest(name=model)).ready)
            return bool(self._call("ServerReady", oip.ServerReadyRequest()).ready)
        except HeadraceError:
            return False

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def _call(self, rpc: str, request: Any, timeout_s: float | None = None) -> Any:
        try:
            return getattr(self._stub, rpc)(request, timeout=timeout_s or self._timeout_s)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient:
    """asyncio client of one address (host:port); belongs to the running event loop."""

    def __init__(
        self, address: str = DEFAULT_ADDRESS, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        self._timeout_s = timeout_s
        self._channel = open_aio_channel(address)
        self._stub = Stub(self._channel, SERVICE)

    async def predict(
        self,
        model: str,
        inputs: Arrays,
        *,
        version: int | None = None,
        channel: str | None = None,
        outputs: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Prediction:
        """As `Client.predict`."""
        request = _request(model, inputs, version, channel, outputs)
        return _prediction(await self._call("ModelInfer", request, timeout_s))

    async def signature(self, model: str) -> Signature:
        """As `Client.signature`."""
        metadata = await self._call("ModelMetadata", oip.ModelMetadataRequest(name=model))
        config = await self._call("ModelConfig", oip.ModelConfigRequest(name=model))
        return _signature(metadata, config)

    async def ready(self, model: str = "") -> bool:
        """As `Client.ready`."""
        try:
            if model:
                reply = await self._call("ModelReady", oip.ModelReadyRequest(name=model))
            else:
                reply = await self._call("ServerReady", oip.ServerReadyRequest())
        except HeadraceError:
            return False
        return bool(reply.ready)

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()

    async def _call(self, rpc: str, request: Any, timeout_s: float | None = None) -> Any:
        try:
            return await getattr(self._stub, rpc)(request, timeout=timeout_s or self._timeout_s)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
