"""One HTTP connection: uvicorn's protocol on httptools, with the bounds that it lacks.

uvicorn bounds neither the head of a request nor the time that a client may take, and answers in
plain text what it refuses itself. Here a head is bounded in bytes and a request in time, both
answered in JSON; a client that goes away cancels the request it left behind.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from chassis.errors import HeadraceError, InvalidArgument, ResourceExhausted, Unavailable
from chassis.rest.refusals import raw_response, status_of
from chassis.rest.settings import HttpLimits
from chassis.tls import certificate_names

# Name, value, colon, blank and line end of a header.
HEADER_OVERHEAD = 4
# Bytes of chunk sizes and trailers that a body may bring beside its own: chunks of one byte, which
# nobody sends, have five. Without a bound a trailer that never ends would be kept.
FRAMING_PER_BODY_BYTE = 8
RETRY_AFTER_S = 1.0


class LimitedConfig(Config):
    """uvicorn's configuration, which hands each connection its `limits`."""

    limits: HttpLimits


class HttpConnection(HttpToolsProtocol):
    """Made by uvicorn for each connection; requests find it as scope["state"]["connection"]."""

    def __init__(
        self,
        config: LimitedConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limits = config.limits
        # The task that answers the request now running.
        self.running: asyncio.Task[Any] | None = None
        # Names in the client's certificate, which TLS has verified.
        self.certificate: tuple[str, ...] = ()
        self._in_head = False
        self._in_message = False
        # Whether uvicorn's cycle is that of the message being read, not of the one before.
        self._has_cycle = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._framing_bytes = 0
        # When the client must have sent or read more; the one timer looks whether it moved.
        self._due_at: float | None = None
        self._write_due_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.certificate = certificate_names(transport.get_extra_info("peercert"))
        if len(self.connections) > self.limits.connections:
            self._refuse(
                Unavailable(
                    "TOO_MANY_CONNECTIONS",
                    f"the server has its {self.limits.connections} connections; try again later",
                    retry_after_s=RETRY_AFTER_S,
                )
            )
            return
        self._expect_within(self.limits.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()
        self.pipeline.clear()
        if self.running is not None:
            self.running.cancel()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        body_before = self._body_bytes
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head:
            # Kept by the parser until the head is whole.
            self._framing_bytes += len(data)
            if self._framing_bytes > self.limits.header_bytes:
                self._refuse(self._head_too_large())
        elif self._in_message:
            self._framing_bytes += len(data) - (self._body_bytes - body_before)
            allowed = 2 * self.limits.header_bytes + FRAMING_PER_BODY_BYTE * self._body_bytes
            if self._framing_bytes > allowed:
                self._refuse(self._head_too_large())
        elif self._idle():
            # Blank lines between requests must not keep a connection.
            self._expect_within(self.limits.header_s)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self._in_head = self._in_message = True
        self._has_cycle = False
        self._head_bytes = self._body_bytes = self._framing_bytes = 0
        self._expect_within(self.limits.header_s)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + HEADER_OVERHEAD
        if self._head_bytes <= self.limits.header_bytes:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._framing_bytes = 0
        if self._head_bytes > self.limits.header_bytes:
            self._refuse(self._head_too_large())
            return
        self._expect_within(self.limits.body_s)
        super().on_headers_complete()
        self._has_cycle = True

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        self._due_at = None
        if not self.transport.is_closing():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn answers where the bytes are no HTTP."""
        self._refuse(InvalidArgument("MALFORMED_HTTP", "the request is not valid HTTP/1.1"))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_due_at = self.loop.time() + self.limits.body_s
        self._arm(self._write_due_at)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_due_at = None

    def timeout_keep_alive_handler(self) -> None:
        """An idle connection ends; one whose client reads nothing would never be closed."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def _idle(self) -> bool:
        return self._due_at is None and (self.cycle is None or self.cycle.response_complete)

    def _expect_within(self, seconds: float) -> None:
        self._due_at = self.loop.time() + seconds
        self._arm(self._due_at)

    def _arm(self, due_at: float) -> None:
        # Most requests are over long before: one timer for many of them, moved only when it rings.
        if self._timer is None or self._timer.when() > due_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_at(due_at, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self.loop.time()
        if self._write_due_at is not None and now >= self._write_due_at:
            self.transport.abort()
        elif self._due_at is not None and now >= self._due_at:
            self._time_out()
        else:
            for due_at in (self._due_at, self._write_due_at):
                if due_at is not None:
                    self._arm(due_at)

    def _time_out(self) -> None:
        if self.pipeline:
            # We do not read it ourselves: an earlier request is being answered.
            self._expect_within(self.limits.body_s)
            return
        if not self._in_message or self._answering():
            # Nothing was asked, or it is answered and what follows is only thrown away.
            self.transport.abort()
            return
        part = "head" if self._in_head else "body"
        self._refuse(
            InvalidArgument("REQUEST_TIMEOUT", f"the request's {part} did not come in time")
        )

    def _answering(self) -> bool:
        return self._has_cycle and self.cycle.response_started

    def _refuse(self, error: HeadraceError) -> None:
        """Answers for the application, if nobody answers yet, and closes."""
        if self.transport.is_closing():
            return
        earlier = bool(self.pipeline) or (self.running is not None and not self._has_cycle)
        if not earlier and not self._answering():
            self.transport.write(raw_response(error, STATUS_LINE[status_of(error)]))
        self.transport.close()

    def _head_too_large(self) -> HeadraceError:
        return ResourceExhausted(
            "HEADERS_TOO_LARGE",
            f"the request line and headers hold more than {self.limits.header_bytes} bytes",
        )
