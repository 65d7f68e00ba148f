"""A client that speaks HTTP/2 by hand, to send what no gRPC client would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from h2.settings import SettingCodes

CLOSED = "closed"


class RawConnection:
    """One connection; `events` holds what came, the last being CLOSED once the server hung up."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.events: list[Any] = []

    async def greet(self) -> None:
        """The preface; returns once the server's settings are there, or it hung up."""
        self._state.initiate_connection()
        await self.flush()
        await self.until(lambda: self.of(h2.events.SettingsAcknowledged) or self.closed)

    def ignore_stream_limit(self) -> None:
        """Opens streams beyond what the server allows from now on."""
        settings = self._state.remote_settings
        settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 2**31 - 1
        settings.acknowledge()

    @property
    def stream_limit(self) -> int:
        """What the server's settings allow."""
        return self._state.remote_settings.max_concurrent_streams

    def headers(self, path: str, *more: tuple[str, str]) -> int:
        """Begins a call that sends no body; the stream's number."""
        stream = self._state.get_next_available_stream_id()
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "test"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *more,
        ]
        self._state.send_headers(stream, fields)
        return stream

    def reset(self, stream: int) -> None:
        self._state.reset_stream(stream, 8)

    def data(self, stream: int, content: bytes) -> None:
        self._state.send_data(stream, content)

    async def flush(self) -> None:
        self._writer.write(self._state.data_to_send())
        await self._writer.drain()

    @property
    def closed(self) -> bool:
        return CLOSED in self.events

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def trailers(self, stream: int) -> dict[str, str]:
        """The headers and trailers that ended the stream, empty as long as they are not there."""
        kinds = (h2.events.ResponseReceived, h2.events.TrailersReceived)
        found: dict[str, str] = {}
        for kind in kinds:
            for event in self.of(kind):
                if event.stream_id == stream:
                    found |= {name.decode(): value.decode() for name, value in event.headers}
        return found

    async def until(self, happened: Callable[[], Any], timeout_s: float = 20) -> None:
        """Reads until something has happened."""
        async with asyncio.timeout(timeout_s):
            while not happened():
                await self._read()

    async def _read(self) -> None:
        try:
            content = await self._reader.read(65536)
        except ConnectionError:
            content = b""
        if not content:
            self.events.append(CLOSED)
            return
        try:
            self.events += self._state.receive_data(content)
        except h2.exceptions.ProtocolError:
            # Frames after the goodbye.
            self.events.append(CLOSED)
            return
        await self.flush()


@asynccontextmanager
async def connected(port: int, greeting: Sequence[bytes] | None = None):
    """A raw connection; `greeting` is sent instead of HTTP/2's preface."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = RawConnection(reader, writer)
    try:
        if greeting is None:
            await connection.greet()
        else:
            writer.writelines(greeting)
        yield connection
    finally:
        writer.close()
