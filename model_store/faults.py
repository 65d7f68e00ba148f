"""A store that fails, waits or forgets its answer at chosen calls: faults by wrapping.

Decides when a fault strikes; the store inside does the work. For tests, here and in the services.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Event, Lock
from typing import TypeVar

from model_store.blobs import at_once
from model_store.records import Blob, Channel, Lease, Manifest, Removal
from model_store.rollout import Rollout
from model_store.store import Store

_R = TypeVar("_R")


@dataclass
class Fault:
    """What happens to calls of one method.

    `call` is the method's name; `error` is raised; `skip` calls pass first, then `times` calls are
    struck. With `after` the call takes effect and only its answer is lost. `gate`, if given, is
    waited for first: an `error` of None and a gate make a slow store.
    """

    call: str
    error: Exception | None
    skip: int = 0
    times: int = 1
    after: bool = False
    gate: Event | None = None

    def strikes(self, call: str) -> bool:
        """Whether this call is struck; counts it."""
        if call != self.call or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class FaultyStore(Store):
    """`calls` lists the methods called, in order; faults are added at any time."""

    def __init__(self, inner: Store, faults: Sequence[Fault] = ()) -> None:
        self.url = inner.url
        self.calls: list[str] = []
        self._inner = inner
        self._faults = list(faults)
        self._lock = Lock()

    def add(self, fault: Fault) -> None:
        """Strikes from the next call on."""
        with self._lock:
            self._faults.append(fault)

    def _do(self, call: str, work: Callable[[], _R]) -> _R:
        with self._lock:
            self.calls.append(call)
            struck = [fault for fault in self._faults if fault.strikes(call)]
        for fault in struck:
            if fault.gate is not None:
                fault.gate.wait()
        _raise_first(fault for fault in struck if not fault.after)
        answer = work()
        _raise_first(fault for fault in struck if fault.after)
        return answer

    def put_blob(self, content: bytes | memoryview) -> str:
        return self._do("put_blob", lambda: self._inner.put_blob(content))

    def missing_blobs(self, digests: Sequence[str]) -> set[str]:
        return self._do("missing_blobs", lambda: self._inner.missing_blobs(digests))

    def read_blob(self, digest: str) -> bytes:
        return self._do("read_blob", lambda: self._inner.read_blob(digest))

    def read_blob_into(
        self, digest: str, target: memoryview, before: Callable[[int], None] = at_once
    ) -> None:
        self._do("read_blob", lambda: self._inner.read_blob_into(digest, target, before))

    def blobs(self) -> Iterator[Blob]:
        return self._do("blobs", lambda: self._inner.blobs())

    def delete_blob(self, digest: str, *, unused_since_ms: int) -> bool:
        return self._do(
            "delete_blob",
            lambda: self._inner.delete_blob(digest, unused_since_ms=unused_since_ms),
        )

    def acquire_epoch(self, model: str, owner: str) -> int:
        return self._do("acquire_epoch", lambda: self._inner.acquire_epoch(model, owner))

    def epoch(self, model: str) -> int:
        return self._do("epoch", lambda: self._inner.epoch(model))

    def create_version(self, manifest: Manifest) -> Manifest:
        return self._do("create_version", lambda: self._inner.create_version(manifest))

    def manifest(self, model: str, version: int) -> Manifest:
        return self._do("manifest", lambda: self._inner.manifest(model, version))

    def versions(self, model: str) -> list[int]:
        return self._do("versions", lambda: self._inner.versions(model))

    def lease(self, model: str, version: int, holder: str, ttl_s: float) -> Lease:
        return self._do("lease", lambda: self._inner.lease(model, version, holder, ttl_s))

    def release(self, model: str, version: int, holder: str) -> None:
        self._do("release", lambda: self._inner.release(model, version, holder))

    def leases(self, model: str) -> list[Lease]:
        return self._do("leases", lambda: self._inner.leases(model))

    def remove_versions(self, model: str, versions: Sequence[int]) -> Removal:
        return self._do("remove_versions", lambda: self._inner.remove_versions(model, versions))

    def models(self) -> list[str]:
        return self._do("models", lambda: self._inner.models())

    def channel(self, model: str, name: str) -> Channel | None:
        return self._do("channel", lambda: self._inner.channel(model, name))

    def channels(self, model: str) -> list[Channel]:
        return self._do("channels", lambda: self._inner.channels(model))

    def move_channel(
        self,
        model: str,
        name: str,
        version: int,
        *,
        expected_revision: int,
        epoch: int = 0,
        held: bool = False,
        rollout: Rollout | None = None,
        reason: str,
    ) -> Channel:
        return self._do(
            "move_channel",
            lambda: self._inner.move_channel(
                model,
                name,
                version,
                expected_revision=expected_revision,
                epoch=epoch,
                held=held,
                rollout=rollout,
                reason=reason,
            ),
        )

    def revision(self, model: str) -> int:
        return self._do("revision", lambda: self._inner.revision(model))

    def wait_for_change(self, model: str, seen: int, timeout_s: float) -> int:
        return self._do(
            "wait_for_change", lambda: self._inner.wait_for_change(model, seen, timeout_s)
        )

    def close(self) -> None:
        self._inner.close()


def _raise_first(faults: Iterable[Fault]) -> None:
    for fault in faults:
        if fault.error is not None:
            raise fault.error
