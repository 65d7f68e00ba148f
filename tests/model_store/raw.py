"""What lies in a store, reached behind its back, to be damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import redis

from model_store.digests import hex_part
from model_store.line_bytes import LineState, decode_line, encode_line
from model_store.redis_scripts import blob_key, chunk_key, model_key
from model_store.s3_location import S3Location
from model_store.s3_objects import S3Objects
from tests.model_store.samples import MODEL

CHUNK_BYTES = 4 * 1024 * 1024


class Raw(Protocol):
    """`kind` is "blob" (by digest), "manifest" (by version) or "channel" (by name)."""

    def read(self, kind: str, name: str | int) -> bytes: ...

    def write(self, kind: str, name: str | int, content: bytes) -> None: ...


class RawFiles:
    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, kind: str, name: str | int) -> Path:
        if kind == "blob":
            digits = hex_part(str(name))
            return self.root / "blobs" / digits[:2] / digits[2:]
        if kind == "manifest":
            return self.root / "models" / MODEL / "versions" / f"{name:012d}"
        return self.root / "models" / MODEL / "channels" / str(name)

    def read(self, kind: str, name: str | int) -> bytes:
        return self.path(kind, name).read_bytes()

    def write(self, kind: str, name: str | int, content: bytes) -> None:
        self.path(kind, name).write_bytes(content)


class RawRedis:
    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def read(self, kind: str, name: str | int) -> bytes:
        if kind == "blob":
            return self.client.get(chunk_key(hex_part(str(name)), CHUNK_BYTES, 0))
        return self.client.hget(model_key(MODEL, f"{kind}s"), str(name))

    def write(self, kind: str, name: str | int, content: bytes) -> None:
        if kind == "blob":
            assert self.client.exists(blob_key(hex_part(str(name))))
            self.client.set(chunk_key(hex_part(str(name)), CHUNK_BYTES, 0), content)
        else:
            self.client.hset(model_key(MODEL, f"{kind}s"), str(name), content)


class RawObjects:
    """The newest manifest and the channels lie inside the model's line, which is sealed anew."""

    def __init__(self, url: str) -> None:
        self.objects = S3Objects(S3Location.of(url))
        self.line = f"models/{MODEL}/line"

    def read(self, kind: str, name: str | int) -> bytes:
        state = self.state()
        if kind == "channel":
            return state.channels[str(name)]
        if kind == "manifest" and name == state.newest:
            return state.manifest
        return self.read_object(self.path(kind, name))

    def write(self, kind: str, name: str | int, content: bytes) -> None:
        state = self.state()
        if kind == "channel":
            channels = {**state.channels, str(name): content}
            self.objects.put(self.line, encode_line(replace(state, channels=channels)))
        elif kind == "manifest" and name == state.newest:
            self.objects.put(self.line, encode_line(replace(state, manifest=content)))
        else:
            self.objects.put(self.path(kind, name), content)

    def path(self, kind: str, name: str | int) -> str:
        if kind == "blob":
            digits = hex_part(str(name))
            return f"blobs/{digits[:2]}/{digits[2:]}"
        return f"models/{MODEL}/versions/{name:012d}"

    def state(self) -> LineState:
        stored = self.objects.read(self.line)
        return LineState() if stored is None else decode_line(stored.content, MODEL)

    def read_object(self, path: str) -> bytes:
        stored = self.objects.read(path)
        assert stored is not None
        return stored.content


def raw_of(url: str) -> Raw:
    """For a store that outlasts the process."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return RawFiles(Path(parts.path))
    if parts.scheme == "s3":
        return RawObjects(url)
    return RawRedis(redis.Redis.from_url(url))
