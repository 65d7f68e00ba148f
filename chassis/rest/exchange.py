"""One HTTP request on its way to the servicer: its call, its body, the messages it asks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from chassis.call import Call
from chassis.errors import PermissionDenied, Unimplemented
from chassis.rest.body import Hold, Receive, RequestHeaders, read_body
from chassis.rest.json_text import Object, parsed
from chassis.rest.refusals import Headers, dumped
from chassis.rest.settings import HttpLimits

JSON = b"application/json"
BINARY = b"application/octet-stream"
EVENTS = b"text/event-stream; charset=utf-8"


@dataclass(slots=True)
class Reply:
    """What goes back: a body, or parts of one as they come."""

    body: bytes = b""
    status: int = 200
    content_type: bytes = JSON
    headers: Headers = field(default_factory=list)
    parts: AsyncGenerator[bytes, None] | None = None


def json_reply(value: object, status: int = 200) -> Reply:
    """`value` as JSON."""
    return Reply(dumped(value), status)


class Exchange:
    """Made for each request; `path` holds what the route's braces matched."""

    __slots__ = ("_receive", "_servicer", "call", "headers", "hold", "limits", "path")

    def __init__(
        self,
        servicer: object,
        call: Call,
        *,
        headers: RequestHeaders,
        path: Mapping[str, str],
        receive: Receive,
        limits: HttpLimits,
        hold: Hold,
    ) -> None:
        self._servicer = servicer
        self._receive = receive
        self.call = call
        self.headers = headers
        self.path = path
        self.limits = limits
        self.hold = hold

    @property
    def model(self) -> str:
        """The model in the path, empty if it names none."""
        return self.path.get("model", "")

    @property
    def version(self) -> str:
        """The version in the path, empty if it names none."""
        return self.path.get("version", "")

    async def body(self) -> bytes:
        """As `read_body`."""
        content = await read_body(self.headers, self._receive, self.limits, self.hold)
        self.call.message_bytes = len(content)
        return content

    async def json(self) -> Object:
        """The body as an object; an empty body is an empty object."""
        return parsed(await self.body(), self.limits.json_bytes)

    async def ask(self, rpc: str, message: Any) -> Any:
        """The servicer's answer. Raises what it raises, Unimplemented if it lacks the RPC."""
        method = self._method(rpc)
        leave = self.call.enter(message)
        try:
            return self.call.shown(await method(message, self.call))
        finally:
            leave()

    async def look_up(self, rpc: str, message: Any) -> Any:
        """As `ask` for what the request asks besides: it is not counted against a quota."""
        return await self._method(rpc)(message, self.call)

    def require_model(self) -> None:
        """Raises PermissionDenied (MODEL_NOT_ALLOWED), before anything is told of the model."""
        if not self.call.may_use(self.model):
            raise PermissionDenied(
                "MODEL_NOT_ALLOWED",
                f"identity {self.call.identity!r} may not use model {self.model[:128]!r}",
            )

    async def stream(self, message: Any) -> AsyncGenerator[Any, None]:
        """The answers of ModelStreamInfer to one request."""
        answers = self._method("ModelStreamInfer")(_once(message), self.call)
        async with aclosing(answers):
            async for answer in answers:
                yield answer

    def _method(self, rpc: str) -> Any:
        method = getattr(self._servicer, rpc, None)
        if method is None:
            raise Unimplemented("NOT_IMPLEMENTED", f"{rpc} is not served here")
        return method


async def _once(message: Any) -> AsyncIterator[Any]:
    yield message
