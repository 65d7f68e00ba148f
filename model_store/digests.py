"""The name of a blob: which algorithm, how many threads, what a well-formed name is.

Decides that BLAKE3 names bytes. Where the bytes live is left to the stores.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from blake3 import blake3

from chassis.errors import DataLoss, InvalidArgument

ALGORITHM = "blake3"

_Content = TypeVar("_Content", bound=bytes | bytearray)

_DIGEST = re.compile(rf"{ALGORITHM}:[0-9a-f]{{64}}", re.ASCII)

# Below this size waking the other cores costs more than they save (measured on 2 cores).
_THREADED_BYTES = 512 * 1024

_threads_usable = True


def _forget_threads() -> None:
    # BLAKE3's thread pool does not survive fork: a child that hashes on it waits for ever.
    global _threads_usable
    _threads_usable = False


os.register_at_fork(after_in_child=_forget_threads)


def digest(buffer: bytes | bytearray | memoryview) -> str:
    """Names the bytes of a C-contiguous buffer: `blake3:` and 64 hexadecimal digits.

    Uses every core for a large buffer, and releases the GIL while it hashes.
    """
    view = memoryview(buffer).cast("B")
    wide = _threads_usable and len(view) >= _THREADED_BYTES
    hasher = blake3(view, max_threads=blake3.AUTO if wide else 1)
    return f"{ALGORITHM}:{hasher.hexdigest()}"


def is_digest(name: str) -> bool:
    """Whether `name` is a well-formed digest."""
    return bool(_DIGEST.fullmatch(name))


def digest_in_parts(
    buffer: bytes | bytearray | memoryview, part_bytes: int, before: Callable[[int], None]
) -> str:
    """As `digest`, on one core; `before` is told the size of each part and may wait."""
    view = memoryview(buffer).cast("B")
    hasher = blake3(max_threads=1)
    for at in range(0, len(view), part_bytes):
        part = view[at : at + part_bytes]
        before(len(part))
        hasher.update(part)
    return f"{ALGORITHM}:{hasher.hexdigest()}"


def digest_of_parts(parts: Iterable[memoryview], *, wide: bool) -> str:
    """As `digest`, of bytes that come one part after another; on every core where it is `wide`."""
    threads = blake3.AUTO if wide and _threads_usable else 1
    hasher = blake3(max_threads=threads)
    for part in parts:
        hasher.update(part)
    return f"{ALGORITHM}:{hasher.hexdigest()}"


def checked_digest(name: str) -> str:
    """Returns `name` if it is a well-formed digest. Raises InvalidArgument (BAD_DIGEST)."""
    if is_digest(name):
        return name
    raise InvalidArgument(
        "BAD_DIGEST",
        f"{name[:80]!r} is not a digest: expected {ALGORITHM}:<64 hexadecimal digits>",
        field="digest",
    )


def hex_part(name: str) -> str:
    """The hexadecimal digits of a well-formed digest. Raises InvalidArgument (BAD_DIGEST)."""
    return checked_digest(name).partition(":")[2]


def verified(content: _Content, name: str) -> _Content:
    """Returns `content` if `name` is its digest. Raises DataLoss (DIGEST_MISMATCH)."""
    if digest(content) == name:
        return content
    raise DataLoss(
        "DIGEST_MISMATCH",
        f"the {len(content)} stored bytes of blob {name} are not what its digest says",
    )


def raw_digest(name: str) -> bytes:
    """The 32 bytes of a well-formed digest. Raises InvalidArgument (BAD_DIGEST)."""
    return bytes.fromhex(hex_part(name))


def digest_of_raw(content: bytes) -> str:
    """The digest whose 32 bytes these are."""
    return f"{ALGORITHM}:{content.hex()}"
