"""Large values of Redis, right into the memory where they are wanted.

The client's own way copies every byte four times in pieces of 64 KiB and needs the interpreter
after each. Here the same connection is asked, and its socket read by one call a value. Decides
nothing else: anything but the values expected leaves the connection closed and the caller to ask
in the ordinary way.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis

# Of a line that says how long a value is.
_LONGEST_LINE = 64


class Unexpected(Exception):
    """The server's answer was not a value of the length expected."""


def fill(client: redis.Redis, keys: Sequence[str], parts: Sequence[memoryview]) -> None:
    """Fills each of `parts` with the value of its key.

    Raises Unexpected, and the client's ConnectionError and TimeoutError.
    """
    pool: Any = client.connection_pool
    connection: Any = pool.get_connection()
    try:
        connection.send_packed_command(connection.pack_commands([("GET", key) for key in keys]))
        with _blocking(connection._sock, connection.socket_timeout) as flags:
            for part in parts:
                _read_value(connection._sock, part, flags)
    except BaseException as error:
        # What is still on its way belongs to nobody.
        connection.disconnect()
        raise _translated(error) from error
    finally:
        pool.release(connection)


@contextmanager
def _blocking(sock: socket.socket, timeout_s: float) -> Iterator[int]:
    """Lets one call wait for all its bytes; yields the flags for it. With TLS it cannot."""
    if hasattr(sock, "unwrap"):
        yield 0
        return
    whole = int(timeout_s)
    span = struct.pack("ll", whole, int((timeout_s - whole) * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)
    sock.settimeout(None)
    yield socket.MSG_WAITALL
    # After an error the connection is closed.
    sock.settimeout(timeout_s)


def _read_value(sock: socket.socket, part: memoryview, flags: int) -> None:
    if _line(sock) != b"$%d" % len(part):
        raise Unexpected
    _read(sock, part, flags)
    end = bytearray(2)
    _read(sock, memoryview(end), flags)
    if end != b"\r\n":
        raise Unexpected


def _read(sock: socket.socket, part: memoryview, flags: int) -> None:
    while part:
        size = sock.recv_into(part, len(part), flags)
        if not size:
            raise redis.exceptions.ConnectionError("closed by the server")
        part = part[size:]


def _line(sock: socket.socket) -> bytes:
    line = bytearray()
    byte = bytearray(1)
    while not line.endswith(b"\r\n"):
        if len(line) > _LONGEST_LINE:
            raise Unexpected
        _read(sock, memoryview(byte), 0)
        line += byte
    return bytes(line[:-2])


def _translated(error: BaseException) -> BaseException:
    # Without a timeout of Python's own, EAGAIN is the kernel's that has passed.
    if isinstance(error, TimeoutError | BlockingIOError):
        return redis.exceptions.TimeoutError("no more bytes")
    if isinstance(error, OSError):
        return redis.exceptions.ConnectionError("the connection broke")
    return error
