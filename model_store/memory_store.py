"""memory://NAME: a store in this process, for tests and for trying things out.

Decides that the name is the identity: everyone in the process who opens memory://NAME meets in one
place, which lives as long as the process. Records pass through the same door as in other stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Condition, Lock
from typing import TypeVar

from chassis.clock import wall_time_ms
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
from model_store.records import Blob, Channel, Lease, Manifest

_R = TypeVar("_R")


@dataclass
class _MemoryLine(Line):
    model: str
    owners: list[str] = field(default_factory=list)
    manifests: dict[int, bytes] = field(default_factory=dict)
    commits: dict[str, int] = field(default_factory=dict)
    records: dict[str, bytes] = field(default_factory=dict)
    granted: dict[tuple[int, str], Lease] = field(default_factory=dict)
    last: int = 0
    changes: int = 0

    def epoch(self) -> int:
        return len(self.owners)

    def newest(self) -> int:
        return self.last

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
        self.commits[manifest.commit_id] = self.last = manifest.version
        self.changes += 1
        return True

    def put_channel(self, channel: Channel) -> None:
        self.records[channel.name] = encode_channel(channel)
        self.changes += 1

    def leases(self) -> list[Lease]:
        return list(self.granted.values())

    def put_lease(self, lease: Lease) -> None:
        self.granted[lease.version, lease.holder] = lease

    def drop_lease(self, version: int, holder: str) -> None:
        self.granted.pop((version, holder), None)

    def remove(self, versions: Sequence[int]) -> None:
        for version in versions:
            del self.manifests[version]
        self.commits = {
            commit: version for commit, version in self.commits.items() if version in self.manifests
        }

    def sweep(self) -> None:
        """Nothing: whoever dies here takes the store along."""


class _Memory:
    """What all stores of one name share."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.blobs: dict[str, bytes] = {}
        self.used: dict[str, int] = {}
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
        with self._memory.changed:
            if name not in self._memory.blobs:
                # A copy, unless it is bytes already: the caller may go on writing into its buffer.
                self._memory.blobs[name] = bytes(content)
            self._memory.used[name] = wall_time_ms()
        return name

    def missing_blobs(self, digests: Sequence[str]) -> set[str]:
        return {name for name in digests if checked_digest(name) not in self._memory.blobs}

    def read_blob(self, digest: str) -> bytes:
        content = self._memory.blobs.get(checked_digest(digest))
        if content is None:
            raise NotFound("BLOB_NOT_FOUND", f"blob {digest} is not in the store")
        return content

    def blobs(self) -> Iterator[Blob]:
        with self._memory.changed:
            found = [
                Blob(name, len(content), self._memory.used[name])
                for name, content in self._memory.blobs.items()
            ]
        return iter(found)

    def delete_blob(self, digest: str, *, unused_since_ms: int) -> bool:
        with self._memory.changed:
            used = self._memory.used.get(checked_digest(digest))
            if used is None or used >= unused_since_ms:
                return False
            del self._memory.blobs[digest], self._memory.used[digest]
            return True

    def _claim_blobs(self, digests: Sequence[str]) -> set[str]:
        # Inside a change, which holds the lock that delete_blob takes.
        missing = self.missing_blobs(digests)
        self._memory.used |= dict.fromkeys(set(digests) - missing, wall_time_ms())
        return missing

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
