"""s3://BUCKET/PREFIX: a store in object storage that keeps conditional writes.

    blobs/<2 hex>/<62 more hex>   immutable, by digest
    models/<model>/               records, see `model_store.s3_line`

Decides how writers without a lock are kept apart, each line written only if it is still the one
that was read, and how a reader waits: by looking again, for a bucket does not call.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from threading import Event
from time import monotonic
from typing import TypeVar

from chassis.errors import NotFound, Unavailable
from chassis.failpoints import failpoint
from chassis.names import checked_name
from model_store.digests import digest, hex_part, verified
from model_store.line_bytes import decode_line
from model_store.line_store import Line, LineStore
from model_store.s3_line import S3Line
from model_store.s3_location import S3Location
from model_store.s3_objects import S3Objects

# Whoever loses has seen another win; this many losses in a row are more writers than a model has.
_ATTEMPTS = 200
_LONGEST_PAUSE_S = 0.2

_R = TypeVar("_R")


class S3Store(LineStore):
    """Connects at the first call.

    Every method that reads records may also raise DataLoss (LINE_DAMAGED), every one that writes
    FailedPrecondition (STORE_UNCONDITIONAL), where the server ignores conditions.
    """

    def __init__(self, url: str) -> None:
        location = S3Location.of(url)
        self.url = url
        self._poll_s = location.poll_s
        self._objects = S3Objects(location)
        self._conditions_kept = False
        self._closed = Event()

    def put_blob(self, content: bytes | memoryview) -> str:
        view = memoryview(content).cast("B")
        name = digest(view)
        path = _blob_path(name)
        if self._objects.size(path) != len(view):
            failpoint("store.blob.before_commit")
            self._objects.put(path, view)
            failpoint("store.blob.after_commit")
        return name

    def missing_blobs(self, digests: Sequence[str]) -> set[str]:
        names = {_blob_path(name): name for name in digests}
        return {names[path] for path in self._objects.absent(names)}

    def read_blob(self, digest: str) -> bytes:
        stored = self._objects.read(_blob_path(digest))
        if stored is None:
            raise NotFound("BLOB_NOT_FOUND", f"blob {digest} is not in the store")
        return verified(stored.content, digest)

    def models(self) -> list[str]:
        return [model for model in self._objects.folders("models") if self._line(model).versions()]

    def wait_for_change(self, model: str, seen: int, timeout_s: float) -> int:
        give_up_at = monotonic() + timeout_s
        line = self._line(checked_name(model, what="model"))
        revision, tag = line.revision(), line.tag
        while revision == seen and not self._closed.is_set():
            remaining = give_up_at - monotonic()
            if remaining <= 0:
                break
            self._closed.wait(min(self._poll_s, remaining))
            changed = self._objects.read_if_changed(line.path, tag)
            if changed is not None:
                tag = changed.tag
                revision = decode_line(changed.content, model).revision if tag else 0
        return revision

    def close(self) -> None:
        self._closed.set()

    def _line(self, model: str) -> S3Line:
        return S3Line(self._objects, model)

    def _change(self, model: str, change: Callable[[Line], _R]) -> _R:
        self._check_conditions()
        for attempt in range(_ATTEMPTS):
            line = self._line(model)
            result = change(line)
            failpoint("store.line.before_commit")
            if line.commit():
                failpoint("store.line.after_commit")
                return result
            # In step, the same writer would lose again and again.
            self._closed.wait(random.uniform(0, min(_LONGEST_PAUSE_S, 0.01 * 2**attempt)))
        raise Unavailable(
            "STORE_UNAVAILABLE",
            f"model {model!r} was changed by others at each of {_ATTEMPTS} attempts",
        )

    def _check_conditions(self) -> None:
        if not self._conditions_kept:
            self._objects.check_conditions()
            self._conditions_kept = True


def _blob_path(name: str) -> str:
    digits = hex_part(name)
    return f"blobs/{digits[:2]}/{digits[2:]}"
