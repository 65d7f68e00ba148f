"""memory://NAME: a store in this process, for tests and for trying things out.

Decides that the name is the identity: everyone in the process who opens memory://NAME meets in one
place, which lives as long as the process. Records pass through the same door as in other stores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Condition, Lock
from typing import TypeVar

from chassis.errors import NotFound
from chassis.names import checked_name
from model_store.digests import checked_digest, digest
from model_store.line_store import Line, LineStore
from model_store.record_bytes import (
    decode_channel,
    decode_manifest,
    encode_channel,
    encode_manifest,
)
from model_store.records import Channel, Manifest

_R = TypeVar("_R")


@dataclass
class _MemoryLine(Line):
    model: str
    owners: list[str] = field(default_factory=list)
    manifests: dict[int, bytes] = field(default_factory=dict)
    commits: dict[str, int] = field(default_factory=dict)
    records: dict[str, bytes] = field(default_factory=dict)
    changes: int = 0

    def epoch(self) -> int:
        return len(self.owners)

    def versions(self) -> list[int]:
        return list(self.manifests)

    def manifest(self, version: int) -> Manifest | None:
        record = self.manifests.get(version)
        return None if record is None else decode_manifest(record, self.model, version)

    def committed(self, commit_id: str) -> Manifest | None:
        version = self.commits.get(commit_id)
        return None if version is None else self.manifest(version)

    def channel(self, name: str) -> Channel | None:
        record = self.records.get(name)
        return None if record is None else decode_channel(record, self.model, name)

    def channel_names(self) -> list[str]:
        return list(self.records)

    def revision(self) -> int:
        return self.changes

    def add_epoch(self, epoch: int, owner: str) -> bool:
        self.owners.append(owner)
        return True

    def add_manifest(self, manifest: Manifest) -> bool:
        self.manifests[manifest.version] = encode_manifest(manifest)
        self.commits[manifest.commit_id] = manifest.version
        self.changes += 1
        return True

    def put_channel(self, channel: Channel) -> None:
        self.records[channel.name] = encode_channel(channel)
        self.changes += 1


class _Memory:
    """What all stores of one name share."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.blobs: dict[str, bytes] = {}
        self.lines: dict[str, _MemoryLine] = {}


_memories: dict[str, _Memory] = {}
_memories_lock = Lock()


class MemoryStore(LineStore):
    """Raises InvalidArgument (BAD_NAME) for a name outside the grammar of names."""

    def __init__(self, name: str) -> None:
        self.url = f"memory://{checked_name(name, what='store')}"
        self._closed = False
        with _memories_lock:
            self._memory = _memories.setdefault(name, _Memory())

    def put_blob(self, content: bytes | memoryview) -> str:
        name = digest(content)
        if name not in self._memory.blobs:
            # A copy, unless it is bytes already: the caller may go on writing into its buffer.
            self._memory.blobs[name] = bytes(content)
        return name

    def missing_blobs(self, digests: Sequence[str]) -> set[str]:
        return {name for name in digests if checked_digest(name) not in self._memory.blobs}

    def read_blob(self, digest: str) -> bytes:
        content = self._memory.blobs.get(checked_digest(digest))
        if content is None:
            raise NotFound("BLOB_NOT_FOUND", f"blob {digest} is not in the store")
        return content

    def models(self) -> list[str]:
        with self._memory.changed:
            return sorted(model for model, line in self._memory.lines.items() if line.manifests)

    def wait_for_change(self, model: str, seen: int, timeout_s: float) -> int:
        line = self._line(checked_name(model, what="model"))
        with self._memory.changed:
            self._memory.changed.wait_for(
                lambda: self._closed or line.changes != seen, timeout=timeout_s
            )
            return line.changes

    def close(self) -> None:
        with self._memory.changed:
            self._closed = True
            self._memory.changed.notify_all()

    def _line(self, model: str) -> _MemoryLine:
        with self._memory.changed:
            return self._memory.lines.setdefault(model, _MemoryLine(model))

    def _change(self, model: str, change: Callable[[Line], _R]) -> _R:
        with self._memory.changed:
            result = change(self._line(model))
            self._memory.changed.notify_all()
            return result
