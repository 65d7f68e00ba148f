"""How one try travels: by a unary call or on a stream; what comes back is a value, never raised.

Both take a serialized request and the time left. Unary calls carry the time as gRPC's deadline.
On a stream it goes as the parameter `timeout`, and the client stops waiting at that time by itself.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from chassis.connections import Access, open_aio_channel
from chassis.edge import error_from_rpc
from chassis.oip import SERVICE
from chassis.stream_errors import CODE_PARAMETER, REASON_PARAMETER
from headrace.load.messages import id_field, timeout_field
from headrace.load.mix import Tenant
from headrace.load.retries import PUSHBACK
from headrace.load.tally import LATE
from headrace.prediction import is_final
from protos.inference import grpc_service_pb2 as oip

# Tags of ModelInferResponse: model_name and model_version, both strings.
_NAME_TAG, _VERSION_TAG = 0x0A, 0x12
_LONG = 0x80


@dataclass(frozen=True, slots=True)
class Answered:
    """The server answered; `version` is the model's."""

    version: str


@dataclass(frozen=True, slots=True)
class Refused:
    """It did not: a gRPC status code's name, ErrorInfo's reason or "", and the pushback or None."""

    code: str
    reason: str = ""
    pushback: str | None = None


Outcome = Answered | Refused


class Transport(Protocol):
    """Carries tries of requests; of one event loop."""

    async def ready(self, within_s: float) -> bool:
        """Waits until every connection is there; False if one is not in time."""

    async def ask(self, message: bytes, tenant: int, left_s: float) -> Outcome:
        """One try; ends within about `left_s` seconds, which is above 0."""

    async def close(self) -> None:
        """Ends what is under way."""


def metadata_of(access: Access, tenant: Tenant) -> tuple[tuple[str, str], ...]:
    """Who asks, for gRPC: the tenant's own token in place of the client's."""
    return Access(token=tenant.token).metadata if tenant.token else access.metadata


def guarded(access: Access, tenants: Sequence[Tenant]) -> Access:
    """With a tenant's token where the client has none of its own.

    For asking what the model takes, and for connections: a token refuses plaintext.
    """
    tokens = [access.token, *(tenant.token for tenant in tenants)]
    return Access(access.tls, next(filter(None, tokens), ""))


class Connections:
    """Channels of their own connection each, taken in turn."""

    def __init__(self, address: str, count: int, access: Access) -> None:
        self.channels = [open_aio_channel(address, access=access) for _ in range(count)]

    async def ready(self, within_s: float) -> bool:
        """Connects them all."""
        try:
            async with asyncio.timeout(within_s):
                for channel in self.channels:
                    await channel.channel_ready()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Closes them all."""
        for channel in self.channels:
            await channel.close()


class UnaryTransport:
    """A ModelInfer call a try."""

    def __init__(
        self,
        connections: Connections,
        tenants: Sequence[tuple[tuple[str, str], ...]],
        *,
        timeout_parameter: bool,
    ) -> None:
        """`tenants` holds the metadata of each tenant."""
        self._connections = connections
        calls: list[Any] = [
            channel.unary_unary(f"/{SERVICE}/ModelInfer") for channel in connections.channels
        ]
        self._calls = itertools.cycle(calls)
        self._tenants = tenants
        self._timeout_parameter = timeout_parameter

    async def ready(self, within_s: float) -> bool:
        return await self._connections.ready(within_s)

    async def ask(self, message: bytes, tenant: int, left_s: float) -> Outcome:
        if self._timeout_parameter:
            message += timeout_field(left_s)
        try:
            reply = await next(self._calls)(message, timeout=left_s, metadata=self._tenants[tenant])
        except grpc.RpcError as error:
            return refusal_of(error)
        return Answered(version_in(reply))

    async def close(self) -> None:
        await self._connections.close()


class StreamTransport:
    """ModelStreamInfer streams that stay open; a broken one is opened anew for the next try."""

    def __init__(
        self,
        connections: Connections,
        tenants: Sequence[tuple[tuple[str, str], ...]],
        streams: int,
    ) -> None:
        """`streams` for each different metadata among the tenants'."""
        self._connections = connections
        channels = itertools.cycle(connections.channels)
        lanes = {
            metadata: itertools.cycle([_Lane(next(channels), metadata) for _ in range(streams)])
            for metadata in dict.fromkeys(tenants)
        }
        self._lanes = [lanes[metadata] for metadata in tenants]

    async def ready(self, within_s: float) -> bool:
        return await self._connections.ready(within_s)

    async def ask(self, message: bytes, tenant: int, left_s: float) -> Outcome:
        return await next(self._lanes[tenant]).ask(message, left_s)

    async def close(self) -> None:
        await self._connections.close()


class _Lane:
    """One stream at a time: writes in turn, matches answers by id."""

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self._open: Any = channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            response_deserializer=oip.ModelStreamInferResponse.FromString,
        )
        self._metadata = metadata
        self._ids = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}
        # One write at a time: gRPC takes no second one before the first is through.
        self._writing = asyncio.Lock()
        self._call: Any = None
        self._reader: asyncio.Task[None] | None = None

    async def ask(self, message: bytes, left_s: float) -> Outcome:
        loop = asyncio.get_running_loop()
        wire_id = str(next(self._ids))
        future: asyncio.Future[Outcome] = loop.create_future()
        self._waiting[wire_id] = future
        limit = loop.call_later(left_s, _settle, future, Refused(LATE))
        try:
            await self._write(message + id_field(wire_id) + timeout_field(left_s))
            return await future
        finally:
            limit.cancel()
            del self._waiting[wire_id]

    async def _write(self, message: bytes) -> None:
        async with self._writing:
            if self._reader is None or self._reader.done():
                self._call = self._open(metadata=self._metadata)
                self._reader = asyncio.create_task(self._read(self._call))
            try:
                await self._call.write(message)
            except (grpc.RpcError, asyncio.InvalidStateError):
                # The stream is over: its reader fails whatever waits, this request too.
                await asyncio.wait([self._reader])

    async def _read(self, call: Any) -> None:
        outcome = Refused("UNAVAILABLE", "STREAM_ENDED")
        try:
            async for reply in call:
                future = self._waiting.get(reply.infer_response.id)
                if future is not None and is_final(reply):
                    _settle(future, _outcome_in(reply))
        except grpc.RpcError as error:
            outcome = refusal_of(error)
        for future in self._waiting.values():
            _settle(future, outcome)


def refusal_of(error: Any) -> Refused:
    """What a failed call says."""
    code = str(error.code().name)
    reason = error_from_rpc(error).reason
    pushback = None
    for key, value in error.trailing_metadata() or ():
        if key == PUSHBACK:
            pushback = str(value)
    return Refused(code, "" if reason in (code, "CANCELLED") else reason, pushback)


def version_in(reply: bytes) -> str:
    """The model version that a serialized ModelInferResponse names.

    It is one of the first fields of what every known server writes; anything else is parsed whole.
    """
    if len(reply) > 2 and reply[0] == _NAME_TAG and reply[1] < _LONG:
        at = 2 + reply[1]
        if len(reply) > at + 1 and reply[at] == _VERSION_TAG and reply[at + 1] < _LONG:
            return reply[at + 2 : at + 2 + reply[at + 1]].decode(errors="replace")
    return str(oip.ModelInferResponse.FromString(reply).model_version)


def _outcome_in(reply: oip.ModelStreamInferResponse) -> Outcome:
    if not reply.error_message:
        return Answered(reply.infer_response.model_version)
    parameters = reply.infer_response.parameters
    if CODE_PARAMETER not in parameters:
        return Refused("UNKNOWN")
    code = parameters[CODE_PARAMETER].string_param
    reason = parameters[REASON_PARAMETER].string_param if REASON_PARAMETER in parameters else ""
    return Refused(code, "" if reason == code else reason)


def _settle(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)
