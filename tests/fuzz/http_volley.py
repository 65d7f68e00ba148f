"""One HTTP request as raw bytes on a connection of its own, and how it ended."""

from __future__ import annotations

import asyncio
import re

from tests.fuzz.shot import PATIENCE_S, Shot
from tests.fuzz.tally import Tally

_STATUS = re.compile(rb"^HTTP/1\.[01] (\d{3}) ", re.MULTILINE)
_INTERNAL = re.compile(rb"internal error [0-9a-f]{12}|Traceback|\.py\b")


async def send(server: str, port: int, shot: Shot, tally: Tally) -> None:
    """Sends the bytes and no more, reads to the end, and counts the status."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            content = await _exchange(port, shot.frames[0], whole=shot.parses)
    except TimeoutError:
        tally.accuse(f"{server} gave no answer in {PATIENCE_S:g} s to {shot.label}")
        return
    status = _status(content)
    if status:
        tally.add(server, "HTTP", f"HTTP {status}", shot.label, content[-200:].decode("latin-1"))
        if status >= 300 and _INTERNAL.search(content):
            tally.accuse(f"{server} HTTP tells of its inside: {content[-300:]!r} by {shot.label}")
        return
    tally.endings[f"{server} HTTP closed"] += 1
    if shot.parses:
        tally.accuse(f"{server} HTTP closed without an answer to {shot.label}")


def _status(content: bytes) -> int:
    """The status, after interim ones; 0 where there is none."""
    statuses = [int(found) for found in _STATUS.findall(content)]
    return next((status for status in statuses if status >= 200), 0)


async def _exchange(port: int, content: bytes, *, whole: bool) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = bytearray()
    try:
        writer.write(content)
        if not whole:
            # Else a server waits for the rest, as long as its settings allow.
            writer.write_eof()
        while part := await reader.read(65536):
            received += part
    except ConnectionError:
        # Refused while we wrote; what came before counts.
        pass
    finally:
        writer.close()
    return bytes(received)
