"""Blobs in Redis: cut into chunks, visible only when all of them are there.

Decides the layout: chunks first, each on its own key and expiring, then one script that finds them
all, keeps them and sets the blob's key. Two writers of one digest write the same bytes, so chunks
are set only where absent and nobody disturbs a blob that exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from chassis.errors import DataLoss, NotFound, Unavailable
from chassis.failpoints import failpoint
from model_store.blobs import at_once, place
from model_store.digests import ALGORITHM, digest, hex_part, verified
from model_store.records import Blob
from model_store.redis_connection import RedisConnection
from model_store.redis_scripts import (
    BLOBS,
    COMMIT_BLOB,
    DELETE_BLOB,
    USE_BLOB,
    blob_key,
    chunk_key,
)

# A value may hold 512 MB, but one command then blocks the server and the socket for seconds.
CHUNK_BYTES = 4 * 1024 * 1024

# Chunks in flight: bounds what the client and the server buffer for one blob.
_WINDOW = 4

# Blobs listed by one command, which blocks the server meanwhile.
_SCANNED = 500

# Longer than any upload, so that only a killed publisher's chunks expire.
_UNCOMMITTED_S = 24 * 3600


class RedisBlobs:
    """The blobs half of the Redis store."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    def put(self, content: bytes | memoryview) -> str:
        view = memoryview(content).cast("B")
        name = digest(view)
        if not self._is_whole(name, len(view)):
            # Twice, for chunks that a killed writer left and that expire between check and commit.
            if not (self._write(name, view) or self._write(name, view)):
                raise Unavailable("STORE_UNAVAILABLE", "parts of a blob vanished as it was stored")
            failpoint("store.blob.after_commit")
        return name

    def missing(self, digests: Sequence[str]) -> set[str]:
        names = list(digests)
        present = self._connection.ask_all([("EXISTS", blob_key(hex_part(name))) for name in names])
        return {name for name, there in zip(names, present, strict=True) if not there}

    def read(self, name: str) -> bytes:
        size_bytes, chunk_bytes = self._layout(name)
        keys = _chunk_keys(name, size_bytes, chunk_bytes)
        # Memory only for what is there.
        if self._stored_bytes(keys) != size_bytes:
            raise _incomplete(name)
        content = bytearray(size_bytes)
        self._fill(name, memoryview(content), chunk_bytes, at_once)
        return verified(bytes(content), name)

    def read_into(self, name: str, target: memoryview, before: Callable[[int], None]) -> None:
        size_bytes, chunk_bytes = self._layout(name)
        if size_bytes != len(target):
            # Damaged, or else not what the caller thinks.
            place(self.read(name), target, name)
        else:
            self._fill(name, target, chunk_bytes, before)

    def entries(self) -> Iterator[Blob]:
        cursor = 0
        while True:
            cursor, scored = self._connection.ask("ZSCAN", BLOBS, cursor, "COUNT", _SCANNED)
            used = {member.decode(): int(score) for member, score in scored}
            layouts = self._connection.ask_all([("GET", blob_key(digits)) for digits in used])
            for (digits, used_ms), layout in zip(used.items(), layouts, strict=True):
                if layout is not None:
                    yield Blob(f"{ALGORITHM}:{digits}", _parsed(layout)[0], used_ms)
            if not cursor:
                return

    def delete(self, name: str, unused_since_ms: int) -> bool:
        digits = hex_part(name)
        layout = self._connection.ask("GET", blob_key(digits))
        chunks = [] if layout is None else _chunk_keys(name, *_parsed(layout))
        failpoint("gc.before_blob")
        word, *_ = self._connection.run(
            DELETE_BLOB, [BLOBS, blob_key(digits), *chunks], (digits, unused_since_ms)
        )
        failpoint("gc.after_blob")
        return layout is not None and bool(word == "OK")

    def _layout(self, name: str) -> tuple[int, int]:
        layout = self._connection.ask("GET", blob_key(hex_part(name)))
        if layout is None:
            raise NotFound("BLOB_NOT_FOUND", f"blob {name} is not in the store")
        return _parsed(layout)

    def _fill(
        self, name: str, target: memoryview, chunk_bytes: int, before: Callable[[int], None]
    ) -> None:
        keys = _chunk_keys(name, len(target), chunk_bytes)
        parts = (target[at : at + chunk_bytes] for at in range(0, len(target), chunk_bytes))
        for window in _windows(keys):
            places = list(islice(parts, len(window)))
            before(sum(map(len, places)))
            if not self._connection.fill(window, places):
                raise _incomplete(name)

    def _stored_bytes(self, keys: Sequence[str]) -> int:
        return sum(self._connection.ask_all([("STRLEN", key) for key in keys]))

    def _is_whole(self, name: str, size_bytes: int) -> bool:
        """Whether the blob exists with every byte in number; their content is not read back.

        One that exists is used now.
        """
        digits = hex_part(name)
        word, *details = self._connection.run(USE_BLOB, [blob_key(digits), BLOBS], (digits,))
        if word == "ABSENT":
            return False
        layout = details[0]
        keys = _chunk_keys(name, *_parsed(layout))
        if self._stored_bytes(keys) == size_bytes:
            return True
        # The blob first: a reader then finds none rather than a damaged one.
        self._connection.ask_all([("DEL", key) for key in (blob_key(hex_part(name)), *keys)])
        return False

    def _write(self, name: str, view: memoryview) -> bool:
        keys = _chunk_keys(name, len(view), CHUNK_BYTES)
        parts = (view[at : at + CHUNK_BYTES] for at in range(0, len(view), CHUNK_BYTES))
        for window in _windows(keys):
            self._connection.ask_all(
                [
                    ("SET", key, part, "NX", "EX", _UNCOMMITTED_S)
                    for key, part in zip(window, islice(parts, len(window)), strict=True)
                ]
            )
        failpoint("store.blob.before_commit")
        layout, digits = f"{len(view)} {CHUNK_BYTES}", hex_part(name)
        word, *_ = self._connection.run(
            COMMIT_BLOB, [BLOBS, blob_key(digits), *keys], (layout, digits)
        )
        return bool(word == "OK")


def _incomplete(name: str) -> DataLoss:
    return DataLoss("DIGEST_MISMATCH", f"the store has lost a part of blob {name}")


def _parsed(layout: bytes) -> tuple[int, int]:
    size_bytes, chunk_bytes = layout.split()
    return int(size_bytes), int(chunk_bytes)


def _chunk_keys(name: str, size_bytes: int, chunk_bytes: int) -> list[str]:
    count = -(-size_bytes // chunk_bytes)
    return [chunk_key(hex_part(name), chunk_bytes, index) for index in range(count)]


def _windows(keys: list[str]) -> Iterator[list[str]]:
    for at in range(0, len(keys), _WINDOW):
        yield keys[at : at + _WINDOW]
