"""The ASGI application: finds the endpoint, makes the call, answers, and tells errors in JSON.

One endpoint object stands at each route. It does what `chassis.edge` does for gRPC: who asks, how
long they wait, which status an error is; anything unforeseen is INTERNAL with an opaque id that
the log explains.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from importlib import resources
from typing import Any

from starlette.exceptions import HTTPException
from starlette.routing import Match, Route, Router
from starlette.types import Receive, Scope, Send

from chassis.call import Call, no_deadline
from chassis.edge import CALLS, SECONDS
from chassis.errors import HeadraceError, InvalidArgument, NotFound, Unavailable
from chassis.guard import Guard, rights_of
from chassis.oip import SERVICE
from chassis.rest.body import (
    LEAST_COMPRESSED_BYTES,
    Budget,
    ClientGone,
    Hold,
    RequestHeaders,
    accepted_encoding,
    compressed,
)
from chassis.rest.exchange import Exchange, Reply
from chassis.rest.refusals import Headers, error_body, error_headers, refusal_of, status_of
from chassis.rest.routes import ROUTES, RouteSpec
from chassis.rest.settings import HttpLimits

DOCUMENT_PATH = "/openapi.json"
DOCUMENT = resources.files("chassis.rest").joinpath("openapi.json")
# Milliseconds that the caller waits for the answer, besides the protocol's parameter `timeout`.
TIMEOUT_HEADER = b"headrace-timeout-ms"
MAX_TIMEOUT_MS = 10**9
RETRY_AFTER_S = 1.0


class RestApplication:
    """ASGI over one servicer of `inference.GRPCInferenceService`."""

    def __init__(
        self,
        servicer: object,
        limits: HttpLimits,
        *,
        control: bool = False,
        guard: Guard | None = None,
    ) -> None:
        self.servicer = servicer
        self.limits = limits
        self.control = control
        self.guard = guard
        self.budget = Budget(limits.buffered_bytes)
        # From now on each answer ends its connection: clients look for another server.
        self.draining = False
        routes = [Route(spec.path, _Endpoint(self, spec), methods=[spec.method]) for spec in ROUTES]
        document = Route(DOCUMENT_PATH, _document, methods=["GET"])
        self._routes = [*routes, document]
        self._router = Router(self._routes, redirect_slashes=False, default=_unknown)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Makes the router raise where it would answer in plain text.
        scope["app"] = self
        try:
            await self._router(scope, receive, send)
        except HTTPException:
            # A path may have a route for each method; starlette names those of the first.
            routes = [route for route in self._routes if route.matches(scope)[0] is not Match.NONE]
            allowed = ", ".join(
                sorted({method for route in routes for method in route.methods or ()})
            )
            refusal = InvalidArgument(
                "METHOD_NOT_ALLOWED",
                f"this path does not take {scope['method'][:16]}; it takes {allowed}",
            )
            reply = refusal_reply(refusal)
            reply.headers.append((b"allow", allowed.encode()))
            await send_reply(reply, send, close=self.draining)


async def _unknown(_scope: Scope, _receive: Receive, send: Send) -> None:
    error = NotFound("NO_SUCH_PATH", f"there is nothing at this path; {DOCUMENT_PATH} names all")
    await send_reply(refusal_reply(error), send)


async def _document(_request: object) -> Any:
    return _Sent(Reply(DOCUMENT.read_bytes()))


class _Sent:
    """A reply as starlette's routes expect one."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send_reply(self._reply, send)


class _Endpoint:
    """One route's ASGI application."""

    def __init__(self, owner: RestApplication, spec: RouteSpec) -> None:
        self._owner = owner
        self._spec = spec
        self._name = f"http/{spec.rpc}"
        self._rights = rights_of(SERVICE, spec.rpc, owner.control)
        self._succeeded = CALLS.labels(self._name, "OK")
        self._seconds = SECONDS.labels(self._name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        connection = scope["state"]["connection"]
        connection.running = asyncio.current_task()
        hold = Hold(self._owner.budget)
        try:
            headers = dict(scope["headers"])
            reply = await self._answer(headers, scope, receive, hold)
            if reply is not None:
                await send_reply(
                    reply,
                    send,
                    encoding=accepted_encoding(headers),
                    close=self._owner.draining,
                )
        except asyncio.CancelledError:
            # The client went away, or the drain's time is over.
            if connection.transport.is_closing():
                raise
            await send_reply(refusal_reply(_shutting_down()), send, close=True)
        except Exception as error:
            # Too late for a status; uvicorn closes the connection.
            refusal_of(self._name, error)
            raise
        finally:
            connection.running = None
            hold.release()
        self._seconds.observe(time.perf_counter() - started)

    async def _answer(
        self, headers: RequestHeaders, scope: Scope, receive: Receive, hold: Hold
    ) -> Reply | None:
        try:
            exchange = Exchange(
                self._owner.servicer,
                self._call(headers, scope["state"]["connection"].certificate),
                headers=headers,
                path=scope["path_params"],
                receive=receive,
                limits=self._owner.limits,
                hold=hold,
            )
            reply = await self._spec.behavior(exchange)
        except ClientGone:
            return None
        except Exception as error:
            refusal = refusal_of(self._name, error)
            CALLS.labels(self._name, refusal.code.name).inc()
            return refusal_reply(refusal)
        self._succeeded.inc()
        return reply

    def _call(self, headers: RequestHeaders, certificate: tuple[str, ...]) -> Call:
        given = headers.get(TIMEOUT_HEADER)
        remaining = no_deadline if given is None else _remaining(given)
        guard = self._owner.guard
        if guard is None:
            return Call(control=self._owner.control, time_remaining=remaining)
        authorization = headers.get(b"authorization")
        return guard.call(
            self._rights,
            authorization=None if authorization is None else authorization.decode("latin-1"),
            certificate=certificate,
            time_remaining=remaining,
        )


def _remaining(given: bytes) -> Callable[[], float | None]:
    """Seconds left of the milliseconds named. Raises InvalidArgument (BAD_TIMEOUT)."""
    try:
        span_ms = float(given)
    except ValueError:
        span_ms = 0.0
    if not 0 < span_ms <= MAX_TIMEOUT_MS:
        raise InvalidArgument(
            "BAD_TIMEOUT",
            f"{TIMEOUT_HEADER.decode()} is not a number of milliseconds above 0 and at most "
            f"{MAX_TIMEOUT_MS}",
        )
    clock = time.monotonic
    deadline = clock() + span_ms / 1000
    return lambda: max(0.0, deadline - clock())


def _shutting_down() -> HeadraceError:
    return Unavailable("DRAINING", "the server is shutting down", retry_after_s=RETRY_AFTER_S)


def refusal_reply(error: HeadraceError) -> Reply:
    """The answer that tells an error."""
    return Reply(error_body(error), status_of(error), headers=[*error_headers(error)])


async def send_reply(
    reply: Reply, send: Send, *, encoding: bytes = b"", close: bool = False
) -> None:
    """Sends it, compressed where that is asked for and pays."""
    headers = [(b"content-type", reply.content_type), *reply.headers]
    if close:
        headers.append((b"connection", b"close"))
    if reply.parts is not None:
        async with aclosing(reply.parts) as parts:
            await _send_parts(reply, headers, parts, send)
        return
    body = reply.body
    if encoding and len(body) >= LEAST_COMPRESSED_BYTES:
        body = await compressed(body, encoding)
        headers.append((b"content-encoding", encoding))
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_parts(
    reply: Reply, headers: Headers, parts: AsyncGenerator[bytes, None], send: Send
) -> None:
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    async for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
