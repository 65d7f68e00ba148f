"""Bodies: received within bounds, inflated within bounds, compressed where the client asks.

A body's bytes are counted against the server's budget from the moment they arrive until its
request is answered.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from chassis.errors import InvalidArgument, ResourceExhausted
from chassis.rest.settings import HttpLimits

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
RequestHeaders = Mapping[bytes, bytes]

# zlib's numbers for its formats; HTTP's "deflate" is zlib's own.
_GZIP_BITS = 31
_ZLIB_BITS = 15
_FORMATS = {b"gzip": _GZIP_BITS, b"x-gzip": _GZIP_BITS, b"deflate": _ZLIB_BITS}
# Compressed bytes that are inflated, and bytes that are compressed, without leaving the loop.
_INFLATE_INLINE_BYTES = 2 * 1024
_DEFLATE_INLINE_BYTES = 32 * 1024
# Smaller answers fit a packet anyway.
LEAST_COMPRESSED_BYTES = 1024
# Tensors compress badly; the fastest level is the only one worth its time.
_LEVEL = 1
RETRY_AFTER_S = 1.0


class ClientGone(Exception):
    """The client went away before its request was whole."""


class Budget:
    """Bytes of bodies held at once. Owned by the event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0


class Hold:
    """What one request holds of the budget; `release` gives it back."""

    __slots__ = ("_budget", "held")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0

    def take(self, count: int) -> None:
        """Raises ResourceExhausted (TOO_MANY_BYTES)."""
        budget = self._budget
        if budget.held + count > budget.limit:
            raise ResourceExhausted(
                "TOO_MANY_BYTES",
                f"the server holds its {budget.limit} bytes of requests; try again later",
                retry_after_s=RETRY_AFTER_S,
            )
        budget.held += count
        self.held += count

    def release(self) -> None:
        """Gives everything back."""
        self._budget.held -= self.held
        self.held = 0


async def read_body(
    headers: RequestHeaders, receive: Receive, limits: HttpLimits, hold: Hold
) -> bytes:
    """The request's body, inflated.

    Raises ResourceExhausted (BODY_TOO_LARGE, TOO_MANY_BYTES), InvalidArgument
    (UNSUPPORTED_ENCODING, MALFORMED_BODY), ClientGone.
    """
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding != b"identity" and encoding not in _FORMATS:
        raise InvalidArgument(
            "UNSUPPORTED_ENCODING",
            f"content-encoding {encoding[:32].decode('latin-1')!r} is unknown; expected gzip, "
            "deflate or none",
        )
    body = await _received(headers, receive, limits.body_bytes, hold)
    if encoding == b"identity":
        return body
    if len(body) <= _INFLATE_INLINE_BYTES:
        inflated = _inflate(body, _FORMATS[encoding], limits.body_bytes)
    else:
        inflated = await asyncio.to_thread(_inflate, body, _FORMATS[encoding], limits.body_bytes)
    hold.take(len(inflated))
    return inflated


async def _received(headers: RequestHeaders, receive: Receive, limit: int, hold: Hold) -> bytes:
    declared = headers.get(b"content-length")
    if declared is not None and int(declared) > limit:
        raise _too_large(limit)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message["body"]
    hold.take(len(body))
    if not message["more_body"]:
        if len(body) > limit:
            raise _too_large(limit)
        return body
    parts = [body]
    total = len(body)
    while message["more_body"]:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message["body"]
        total += len(part)
        if total > limit:
            raise _too_large(limit)
        hold.take(len(part))
        parts.append(part)
    return b"".join(parts)


def _too_large(limit: int) -> ResourceExhausted:
    return ResourceExhausted(
        "BODY_TOO_LARGE", f"the body is too large; the server takes at most {limit} bytes"
    )


def _inflate(body: bytes, bits: int, limit: int) -> bytes:
    inflater = zlib.decompressobj(bits)
    try:
        inflated = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise _malformed() from None
    if len(inflated) > limit:
        raise _too_large(limit)
    if not inflater.eof or inflater.unused_data:
        raise _malformed()
    return inflated


def _malformed() -> InvalidArgument:
    return InvalidArgument(
        "MALFORMED_BODY",
        "the body is not what its content-encoding says: expected one whole compressed stream",
    )


def accepted_encoding(headers: RequestHeaders) -> bytes:
    """gzip or deflate, whichever the client prefers; empty if it asks for neither."""
    accepted = headers.get(b"accept-encoding")
    if not accepted:
        return b""
    best, best_quality = b"", 0.0
    for item in accepted.lower().split(b","):
        name, _, parameter = item.partition(b";")
        name = name.strip()
        quality = _quality(parameter)
        if name in (b"gzip", b"deflate") and quality > best_quality:
            best, best_quality = name, quality
    return best


def _quality(parameter: bytes) -> float:
    key, _, value = parameter.partition(b"=")
    if key.strip() != b"q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


async def compressed(body: bytes, encoding: bytes) -> bytes:
    """`body` as gzip or deflate; large ones in a thread."""
    if len(body) <= _DEFLATE_INLINE_BYTES:
        return _deflate(body, _FORMATS[encoding])
    return await asyncio.to_thread(_deflate, body, _FORMATS[encoding])


def _deflate(body: bytes, bits: int) -> bytes:
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, bits)
    return deflater.compress(body) + deflater.flush()
