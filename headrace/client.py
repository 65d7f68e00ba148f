"""Clients of a gateway (or of a replica alone): numpy in, numpy out, each answer names its version.

`Client` blocks, `AsyncClient` awaits; they share everything but the wait. Both raise the errors of
`chassis.errors` with the reason the server gave.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from chassis.connections import open_aio_channel, open_channel
from chassis.edge import Stub, error_from_rpc
from chassis.errors import HeadraceError
from chassis.oip import SERVICE, signature_of
from chassis.tensors import Signature
from headrace import feedback
from headrace.access import Credentials, access_of
from headrace.feedback import Answered, Scores, report_of, reports_of
from headrace.prediction import (
    Arrays,
    Options,
    Parameter,
    Prediction,
    failure_in,
    is_final,
    prediction_of,
    request_of,
    seconds_left,
    stream_request_of,
)
from headrace.prediction_stream import (
    DEFAULT_OUTSTANDING,
    AsyncPredictionStream,
    PredictionStream,
    ended_early,
    generated,
)
from protos.inference import grpc_service_pb2 as oip

DEFAULT_ADDRESS = "127.0.0.1:8001"
DEFAULT_TIMEOUT_S = 30.0
# The id under which the one request of a `generate` travels.
LONE_ID = "1"


def _signature(metadata: Any, config: Any) -> Signature:
    return signature_of(metadata, config.config)


def _lone_request(
    model: str, inputs: Arrays, options: Options, timeout_s: float
) -> oip.ModelInferRequest:
    return stream_request_of(model, inputs, options, wire_id=LONE_ID, timeout_s=timeout_s)


class Client:
    """Blocking client of one address (host:port); safe to share between threads.

    Not before the first call is anything connected. Use it as a context manager or `close` it.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        **credentials: Unpack[Credentials],
    ) -> None:
        """`credentials`: `token`, `ca`, `cert`, `key`, `server_name`, `tls`; see `Credentials`.

        Raises InvalidArgument (BAD_TLS_FILE, BAD_TOKEN, TOKEN_IN_PLAINTEXT).
        """
        self._timeout_s = timeout_s
        access = access_of(credentials)
        self._channel = open_channel(address, access=access)
        self._stub = Stub(self._channel, SERVICE, access.metadata)
        self._feedback = Stub(self._channel, feedback.SERVICE, access.metadata)

    def predict(self, model: str, inputs: Arrays, **options: Unpack[Options]) -> Prediction:
        """Sends arrays by input name, batch dimension first where the model batches.

        `options` are those of `Options`: `version`, `channel`, `max_staleness_ms`, `outputs`,
        `classes`, `timeout_s`, `deadline`, `priority`, `request_id`, `parameters`. Raises
        InvalidArgument, NotFound, FailedPrecondition (the pinned version is not loaded, or all
        weights are older than allowed), ResourceExhausted, DeadlineExceeded,
        Unavailable, or Unimplemented (DECOUPLED_MODEL: use `generate`).
        """
        timeout_s = seconds_left(options, self._timeout_s)
        return prediction_of(
            self._call("ModelInfer", request_of(model, inputs, options), timeout_s)
        )

    def generate(
        self, model: str, inputs: Arrays, **options: Unpack[Options]
    ) -> Iterator[Prediction]:
        """The responses of a model that gives several to one request, each when it is there.

        `timeout_s` bounds them all together. Leaving the loop early (or closing the iterator)
        cancels the request. Options and errors as of `predict`.
        """
        timeout_s = seconds_left(options, self._timeout_s)
        request = _lone_request(model, inputs, options, timeout_s)

        def call() -> Any:
            return self._stub.ModelStreamInfer(iter([request]), timeout=timeout_s)

        return generated(call, options.get("request_id", ""))

    def stream(self, *, outstanding: int = DEFAULT_OUTSTANDING) -> PredictionStream:
        """One stream for many requests, up to `outstanding` of them at once."""
        return PredictionStream(self._stub, self._timeout_s, outstanding)

    def sequence(self, model: str, **options: Unpack[Options]) -> Sequence:
        """A row of requests that one replica and one version answer in order.

        `options` go with each of them.
        """
        return Sequence(self, model, options)

    def report(self, answered: Answered, scores: Scores) -> int:
        """Says how good an answer was, once its label is known: `{"accuracy": 1.0}`.

        `answered` is the prediction, or (model, version) where only those were kept. Returns how
        many scores count: 0 where no rollout concerns the version. Not to be repeated blindly: a
        report whose answer was lost may count twice. Raises InvalidArgument (BAD_SCORE, BAD_NAME),
        NotFound, Unimplemented at a server without it, such as a replica alone.
        """
        return self._reported(report_of(answered, scores))

    def report_many(self, model: str, scored: Iterable[tuple[int, Scores]]) -> int:
        """As `report`, for many answers of a model in one call: (version, scores) each."""
        return self._reported(reports_of(model, scored))

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

    def _reported(self, request: Any) -> int:
        try:
            return int(self._feedback.Report(request, timeout=self._timeout_s).taken)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from None

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
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        **credentials: Unpack[Credentials],
    ) -> None:
        """As `Client`."""
        self._timeout_s = timeout_s
        access = access_of(credentials)
        self._channel = open_aio_channel(address, access=access)
        self._stub = Stub(self._channel, SERVICE, access.metadata)
        self._feedback = Stub(self._channel, feedback.SERVICE, access.metadata)

    async def predict(self, model: str, inputs: Arrays, **options: Unpack[Options]) -> Prediction:
        """As `Client.predict`."""
        timeout_s = seconds_left(options, self._timeout_s)
        request = request_of(model, inputs, options)
        return prediction_of(await self._call("ModelInfer", request, timeout_s))

    async def generate(
        self, model: str, inputs: Arrays, **options: Unpack[Options]
    ) -> AsyncIterator[Prediction]:
        """As `Client.generate`."""
        timeout_s = seconds_left(options, self._timeout_s)
        request = _lone_request(model, inputs, options, timeout_s)
        call = self._stub.ModelStreamInfer(iter([request]), timeout=timeout_s)
        try:
            async for reply in call:
                failure = failure_in(reply)
                if failure is not None:
                    raise failure
                if reply.infer_response.outputs:
                    yield prediction_of(reply.infer_response, options.get("request_id", ""))
                if is_final(reply):
                    return
            raise ended_early()
        except grpc.RpcError as error:
            raise error_from_rpc(error) from None
        finally:
            call.cancel()

    def stream(self, *, outstanding: int = DEFAULT_OUTSTANDING) -> AsyncPredictionStream:
        """As `Client.stream`."""
        return AsyncPredictionStream(self._stub, self._timeout_s, outstanding)

    def sequence(self, model: str, **options: Unpack[Options]) -> AsyncSequence:
        """As `Client.sequence`."""
        return AsyncSequence(self, model, options)

    async def report(self, answered: Answered, scores: Scores) -> int:
        """As `Client.report`."""
        return await self._reported(report_of(answered, scores))

    async def report_many(self, model: str, scored: Iterable[tuple[int, Scores]]) -> int:
        """As `Client.report_many`."""
        return await self._reported(reports_of(model, scored))

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

    async def _reported(self, request: Any) -> int:
        try:
            reply = await self._feedback.Report(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from None
        return int(reply.taken)

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


class _Position:
    """Where a sequence stands: its id, whether it began, and what a request of it carries."""

    def __init__(self, options: Options) -> None:
        self.id = secrets.randbits(63) or 1
        self._options = options
        self._started = False
        self._ended = False

    def options(self, end: bool) -> Options:
        parameters: dict[str, Parameter] = dict(self._options.get("parameters") or {})
        parameters |= {"sequence_id": self.id}
        if not self._started or self._ended:
            parameters["sequence_start"] = True
        if end:
            parameters["sequence_end"] = True
        return {**self._options, "parameters": parameters}

    def on_answered(self, end: bool) -> None:
        self._started, self._ended = True, end


class Sequence:
    """Made by `Client.sequence`; not safe to share between threads.

    A sequence that nothing is asked of for a while is ended by the server.
    """

    def __init__(self, client: Client, model: str, options: Options) -> None:
        self._client = client
        self._model = model
        self._position = _Position(options)

    @property
    def id(self) -> int:
        """The id under which its requests travel."""
        return self._position.id

    def predict(self, inputs: Arrays, *, end: bool = False) -> Prediction:
        """The next request; `end` makes it the last, and one after that begins anew.

        Raises what `Client.predict` does, and FailedPrecondition (SEQUENCE_LOST) where the replica
        or the version that knew the sequence is gone: begin another.
        """
        answer = self._client.predict(self._model, inputs, **self._position.options(end))
        self._position.on_answered(end)
        return answer


class AsyncSequence:
    """Made by `AsyncClient.sequence`; await each request before the next."""

    def __init__(self, client: AsyncClient, model: str, options: Options) -> None:
        self._client = client
        self._model = model
        self._position = _Position(options)

    @property
    def id(self) -> int:
        """The id under which its requests travel."""
        return self._position.id

    async def predict(self, inputs: Arrays, *, end: bool = False) -> Prediction:
        """As `Sequence.predict`."""
        answer = await self._client.predict(self._model, inputs, **self._position.options(end))
        self._position.on_answered(end)
        return answer
