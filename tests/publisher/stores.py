"""Stores for these tests: one that counts what is sent, one that is away now and then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

from chassis.errors import Unavailable
from model_store import Store
from model_store.memory_store import MemoryStore
from model_store.records import Manifest


class CountingStore(MemoryStore):
    """Counts the calls of each method and the blobs put, by size."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: Counter[str] = Counter()
        self.put_sizes: list[int] = []

    def put_blob(self, content: bytes | memoryview) -> str:
        self.put_sizes.append(len(content))
        return super().put_blob(content)

    def missing_blobs(self, digests: Sequence[str]) -> set[str]:
        self.calls["missing_blobs"] += 1
        return super().missing_blobs(digests)


class FlakyStore(MemoryStore):
    """Away `fails[method]` times; create_version has committed by then: its outcome is unknown."""

    def __init__(self, name: str, **fails: int) -> None:
        super().__init__(name)
        self.fails = fails
        self._counting = Lock()

    def _call(self, method: str, call: Callable[[], Any]) -> Any:
        # Blobs are put by several threads.
        with self._counting:
            strikes = self.fails.get(method, 0) > 0
            if strikes:
                self.fails[method] -= 1
        if strikes:
            raise Unavailable("STORE_UNAVAILABLE", f"{method} found nobody")
        return call()

    def put_blob(self, content: bytes | memoryview) -> str:
        return self._call("put_blob", lambda: super(FlakyStore, self).put_blob(content))

    def missing_blobs(self, digests: Sequence[str]) -> set[str]:
        return self._call("missing_blobs", lambda: super(FlakyStore, self).missing_blobs(digests))

    def acquire_epoch(self, model: str, owner: str) -> int:
        return self._call(
            "acquire_epoch", lambda: super(FlakyStore, self).acquire_epoch(model, owner)
        )

    def create_version(self, manifest: Manifest) -> Manifest:
        made = super().create_version(manifest)
        return self._call("create_version", lambda: made)


class CollectedStore(MemoryStore):
    """A collector takes every blob just before `create_version`, `times` times."""

    def __init__(self, name: str, times: int) -> None:
        super().__init__(name)
        self.times = times
        self.collections = 0

    def create_version(self, manifest: Manifest) -> Manifest:
        if self.collections < self.times:
            self.collections += 1
            for blob in list(self.blobs()):
                self.delete_blob(blob.digest, unused_since_ms=blob.use_time_ms + 1)
        return super().create_version(manifest)


def newest(store: Store, model: str) -> Manifest:
    return store.manifest(model, store.versions(model)[-1])
