"""The edge of every gRPC server: handlers built from descriptors, errors turned into statuses.

Each handler is wrapped once, when it is registered: a malformed message becomes INVALID_ARGUMENT
(grpc.aio alone would answer UNKNOWN with the parser's text), a HeadraceError becomes its status
with google.rpc details, and anything else becomes INTERNAL with an opaque id that the log explains.
Every call is counted and timed by method and code.

A call with one request is registered as if its requests streamed and reads that one itself: who
may not ask is told before the message is received, and a message that never comes ends the call.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import Counter, Histogram

from chassis.call import Call, nothing
from chassis.errors import (
    CATEGORIES,
    DeadlineExceeded,
    HeadraceError,
    Internal,
    InvalidArgument,
    Unavailable,
    Unimplemented,
)
from chassis.guard import Guard, rights_of
from chassis.telemetry import REGISTRY, logger
from protos.pool import POOL, message_class

log = logger(__name__)

DOMAIN = "headrace"
_MALFORMED = object()
# A message, or _MALFORMED, and its bytes.
_Received = tuple[Any, int]

CALLS = Counter("headrace_rpc_calls", "Calls ended", ["method", "code"], registry=REGISTRY)
SECONDS = Histogram(
    "headrace_rpc_seconds",
    "From the request read to the answer given",
    ["method"],
    registry=REGISTRY,
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)

Context = grpc.aio.ServicerContext[Any, Any]
Behavior = Callable[[Any, Call], Any]
Handler = Callable[[Any, Context], Any]


@dataclass(frozen=True, slots=True)
class Gate:
    """What stands before the handlers of a service."""

    guard: Guard | None = None
    # Whether whoever reaches the port may change the server, where nobody is asked who they are.
    control: bool = False
    # Seconds in which a call's one message must be there; 0 is without bound.
    request_s: float = 0.0


OPEN = Gate()


def service_handler(service: str, servicer: object, gate: Gate = OPEN) -> grpc.GenericRpcHandler:
    """Handlers for all methods of `service` (a full name in our pool) from `servicer`'s coroutines.

    A method is an `async def` named as the RPC that takes the request and a `Call`, or an async
    generator where the response streams; one that `servicer` lacks answers UNIMPLEMENTED.
    """
    descriptor = POOL.FindServiceByName(service)
    handlers = {}
    for method in descriptor.methods:
        behavior = getattr(servicer, method.name, None)
        handlers[method.name] = _handler(method, behavior or _unimplemented(method), gate)
    return grpc.method_handlers_generic_handler(service, handlers)


def _unimplemented(method: Any) -> Behavior:
    async def unary(_request: object, _call: Call) -> NoReturn:
        raise Unimplemented("NOT_IMPLEMENTED", f"{method.name} is not served here")

    async def streaming(_request: object, _call: Call) -> AsyncIterator[object]:
        raise Unimplemented("NOT_IMPLEMENTED", f"{method.name} is not served here")
        yield None

    return streaming if method.server_streaming else unary


def _handler(method: Any, behavior: Behavior, gate: Gate) -> grpc.RpcMethodHandler[Any, Any]:
    parse = message_class(method.input_type).FromString

    def deserialize(content: bytes) -> _Received:
        try:
            return parse(content), len(content)
        except DecodeError:
            return _MALFORMED, len(content)

    serialize = message_class(method.output_type).SerializeToString
    name = f"{method.containing_service.full_name}/{method.name}"
    entrance = _Entrance(method, gate)
    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(
            _streaming(name, behavior, entrance), deserialize, serialize
        )
    if method.server_streaming:
        return grpc.stream_stream_rpc_method_handler(
            _answering(name, behavior, entrance), deserialize, serialize
        )
    return grpc.stream_unary_rpc_method_handler(
        _unary(name, behavior, entrance), deserialize, serialize
    )


class _Entrance:
    """Makes the `Call`s of one method and receives what they ask."""

    def __init__(self, method: Any, gate: Gate) -> None:
        self._guard = gate.guard
        self._control = gate.control
        self._rights = rights_of(method.containing_service.full_name, method.name, gate.control)
        self._request_s = gate.request_s or None

    def call(self, context: Context) -> Call:
        """Raises Unauthenticated, PermissionDenied."""
        if self._guard is None:
            return Call(control=self._control, time_remaining=context.time_remaining)
        return self._guard.call(
            self._rights,
            authorization=_authorization(context),
            certificate=_certificate_names(context),
            time_remaining=context.time_remaining,
        )

    async def receive(self, context: Context, call: Call) -> Any:
        """The one request. Raises InvalidArgument, DeadlineExceeded (REQUEST_TIMEOUT)."""
        try:
            async with asyncio.timeout(self._request_s):
                received = await context.read()
        except TimeoutError:
            raise DeadlineExceeded(
                "REQUEST_TIMEOUT", f"the request's message did not come in {self._request_s:g} s"
            ) from None
        if received is grpc.aio.EOF:
            raise InvalidArgument("NO_MESSAGE", "the call ended without a request")
        return _checked(received, call)


def _checked(received: _Received, call: Call) -> Any:
    request, call.message_bytes = received
    if request is _MALFORMED:
        raise InvalidArgument("MALFORMED_MESSAGE", "the request is not a valid protobuf message")
    return request


async def _checked_stream(requests: AsyncIterator[_Received], call: Call) -> AsyncIterator[Any]:
    async for received in requests:
        yield _checked(received, call)


def _authorization(context: Context) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return value if isinstance(value, str) else value.decode("latin-1")
    return None


def _certificate_names(context: Context) -> tuple[str, ...]:
    """Names in the client's verified certificate: URIs, then other SANs, then the CN."""
    found = context.auth_context()
    if not found:
        return ()
    others = found.get("x509_subject_alternative_name", ())
    texts = [name.decode("utf-8", "replace") for name in others]
    texts.sort(key=lambda text: "://" not in text)
    common = found.get("x509_common_name", ())
    return (*texts, *(name.decode("utf-8", "replace") for name in common))


def _unary(
    name: str, behavior: Callable[[Any, Call], Awaitable[Any]], entrance: _Entrance
) -> Handler:
    succeeded = CALLS.labels(name, "OK")
    seconds = SECONDS.labels(name)

    async def handle(_requests: object, context: Context) -> object:
        leave = nothing
        try:
            call = entrance.call(context)
            request = await entrance.receive(context, call)
            started = time.perf_counter()
            leave = call.enter(request)
            reply = call.shown(await behavior(request, call))
        except Exception as error:
            _refuse(name, error, context)
            return None
        finally:
            leave()
        seconds.observe(time.perf_counter() - started)
        succeeded.inc()
        return reply

    return handle


def _answering(name: str, behavior: Behavior, entrance: _Entrance) -> Handler:
    """One request, many replies."""
    succeeded = CALLS.labels(name, "OK")

    async def handle(_requests: object, context: Context) -> AsyncIterator[object]:
        leave = nothing
        try:
            call = entrance.call(context)
            request = await entrance.receive(context, call)
            leave = call.enter(request)
            async for reply in behavior(request, call):
                yield reply
        except Exception as error:
            _refuse(name, error, context)
        else:
            succeeded.inc()
        finally:
            leave()

    return handle


def _streaming(name: str, behavior: Behavior, entrance: _Entrance) -> Handler:
    """Many requests, many replies; the servicer enters each request."""
    succeeded = CALLS.labels(name, "OK")

    async def handle(requests: AsyncIterator[_Received], context: Context) -> AsyncIterator[object]:
        try:
            call = entrance.call(context)
            async for reply in behavior(_checked_stream(requests, call), call):
                yield reply
        except Exception as error:
            _refuse(name, error, context)
        else:
            succeeded.inc()

    return handle


def _refuse(name: str, error: Exception, context: Context) -> None:
    """Sets the status that `error` stands for; the handler then ends without a reply.

    `context.abort` would raise an exception that grpc keeps in a cycle with the call: its frames
    hold the request, and a hundred megabytes of it would wait for the garbage collector.
    """
    refusal = error if isinstance(error, HeadraceError) else _opaque(name, error)
    CALLS.labels(name, refusal.code.name).inc()
    context.set_code(refusal.code)
    context.set_details(refusal.message)
    context.set_trailing_metadata(trailing_metadata(refusal))


def _opaque(name: str, error: Exception) -> HeadraceError:
    error_id = uuid.uuid4().hex[:12]
    log.error("handler failed", method=name, error_id=error_id, exc_info=error)
    return Internal("INTERNAL", f"internal error {error_id}")


def trailing_metadata(error: HeadraceError) -> tuple[tuple[str, str | bytes], ...]:
    """The `grpc-status-details-bin` entry: ErrorInfo, and BadRequest where a field is at fault.

    With `retry_after_s` also the hint that gRPC clients with a retry policy honour.
    """
    status = status_pb2.Status(code=error.code.value[0], message=error.message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message
        )
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    details = ("grpc-status-details-bin", status.SerializeToString())
    if error.retry_after_s is None:
        return (details,)
    return (details, ("grpc-retry-pushback-ms", str(max(0, round(error.retry_after_s * 1000)))))


def error_from_rpc(error: grpc.RpcError) -> HeadraceError:
    """The category and reason behind a failed call, for a client of ours.

    CANCELLED is what gRPC gives calls that reached a server as it shut down, so it is Unavailable
    here; other codes outside our table become Internal with the code as reason.
    """
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    if code is grpc.StatusCode.CANCELLED:
        return Unavailable("CANCELLED", "the server cancelled the call; it may be shutting down")
    message = (error.details() if hasattr(error, "details") else "") or code.name
    metadata = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    reason, field = _details(metadata)
    return CATEGORIES.get(code, Internal)(reason or code.name, message, field=field)


def _details(metadata: Any) -> tuple[str, str]:
    """ErrorInfo's reason and BadRequest's first field, "" where there is none."""
    info, wrong = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for key, value in metadata or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                detail.Unpack(info)
                detail.Unpack(wrong)
    return info.reason, wrong.field_violations[0].field if wrong.field_violations else ""


class Stub:
    """Callables of one service on one channel, by RPC name; sync or asyncio as the channel is.

    `metadata` goes with every call: `Access.metadata`.
    """

    def __init__(
        self, channel: Any, service: str, metadata: tuple[tuple[str, str], ...] = ()
    ) -> None:
        for method in POOL.FindServiceByName(service).methods:
            kind = "_".join(
                "stream" if streams else "unary"
                for streams in (method.client_streaming, method.server_streaming)
            )
            call = getattr(channel, kind)(
                f"/{service}/{method.name}",
                request_serializer=message_class(method.input_type).SerializeToString,
                response_deserializer=message_class(method.output_type).FromString,
            )
            setattr(self, method.name, partial(call, metadata=metadata) if metadata else call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service has no RPC {name}")
