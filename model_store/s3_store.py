"""s3://BUCKET/PREFIX: a store in object storage that keeps conditional writes.

    blobs/<2 hex>/<62 more hex>   immutable, by digest
    uses/<2 hex>/<62 more hex>    empty; put when a blob that was put long ago is used again
    models/<model>/               records, see `model_store.s3_line`

Decides how writers without a lock are kept apart, each line written only if it is still the one
that was read, and how a reader waits: by looking again, for a bucket does not call. And how a blob
is deleted where a delete has no condition: who uses it marks it first and looks then whether it is
there; who deletes it looks for a mark afterwards too, and puts it back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from threading import Event
from time import monotonic
from typing import TypeVar

from chassis.clock import wall_time_ms
from chassis.errors import DataLoss, NotFound, Unavailable
from chassis.failpoints import failpoint
from chassis.names import checked_name
from model_store.digests import ALGORITHM, digest, hex_part, is_digest, verified
from model_store.line_bytes import decode_line
from model_store.line_store import Line, LineStore
from model_store.records import Blob
from model_store.s3_line import S3Line
from model_store.s3_location import S3Location
from model_store.s3_objects import CONCURRENCY, S3Entry, S3Objects
from model_store.side_by_side import side_by_side

# Whoever loses has seen another win; this many losses in a row are more writers than a model has.
_ATTEMPTS = 200
_LONGEST_PAUSE_S = 0.2
# A blob put or marked more lately than this is not marked again: one request less for each tensor
# that stays the same. Collectors leave alone what is younger than LEAST_GRACE_S, which is more.
MARK_AFTER_S = 600

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
        path = _path("blobs", name)
        if self._claimed_bytes(name) != len(view):
            failpoint("store.blob.before_commit")
            self._objects.put(path, view)
            failpoint("store.blob.after_commit")
        return name

    def missing_blobs(self, digests: Sequence[str]) -> set[str]:
        names = {_path("blobs", name): name for name in digests}
        return {names[path] for path in self._objects.absent(names)}

    def _claim_blobs(self, digests: Sequence[str]) -> set[str]:
        sizes = side_by_side(self._claimed_bytes, digests, CONCURRENCY)
        return {name for name, size in zip(digests, sizes, strict=True) if size is None}

    def _claimed_bytes(self, name: str) -> int | None:
        """The size of the blob, which is used now; None where there is none."""
        path = _path("blobs", name)
        entry = self._objects.entry(path)
        if entry is not None and not self._is_fresh(entry, name):
            # The mark first: whoever deletes the blob after this look sees it and puts it back.
            self._objects.put(_path("uses", name), b"")
            failpoint("store.blob.after_mark")
            entry = self._objects.entry(path)
        return None if entry is None else entry.size_bytes

    def _is_fresh(self, entry: S3Entry, name: str) -> bool:
        since_ms = wall_time_ms() - MARK_AFTER_S * 1000
        return entry.put_time_ms > since_ms or self._marked_ms(name) > since_ms

    def _marked_ms(self, name: str) -> int:
        mark = self._objects.entry(_path("uses", name))
        return 0 if mark is None else mark.put_time_ms

    def blobs(self) -> Iterator[Blob]:
        marked = {
            entry.path.removeprefix("uses/"): entry.put_time_ms
            for entry in self._objects.entries("uses")
        }
        for entry in self._objects.entries("blobs"):
            place = entry.path.removeprefix("blobs/")
            used_ms = max(entry.put_time_ms, marked.get(place, 0))
            name = f"{ALGORITHM}:{place.replace('/', '')}"
            if is_digest(name):
                yield Blob(name, entry.size_bytes, used_ms)

    def delete_blob(self, digest: str, *, unused_since_ms: int) -> bool:
        path = _path("blobs", digest)
        # Kept until it is clear that nobody began to use it meanwhile.
        stored = self._objects.read(path)
        entry = self._objects.entry(path)
        if stored is None or entry is None:
            return False
        if max(entry.put_time_ms, self._marked_ms(digest)) >= unused_since_ms:
            return False
        failpoint("gc.before_blob")
        self._objects.delete(path)
        failpoint("gc.after_blob")
        marked_ms = self._marked_ms(digest)
        if marked_ms >= unused_since_ms:
            self._put_back(digest, stored.content)
            return False
        if marked_ms:
            self._objects.delete(_path("uses", digest))
        return True

    def read_blob(self, digest: str) -> bytes:
        stored = self._objects.read(_path("blobs", digest))
        if stored is None:
            raise NotFound("BLOB_NOT_FOUND", f"blob {digest} is not in the store")
        return verified(stored.content, digest)

    def _put_back(self, name: str, content: bytes) -> None:
        path = _path("blobs", name)
        if self._objects.entry(path) is None:
            self._objects.put(path, verified(content, name))

    def models(self) -> list[str]:
        return [model for model in self._objects.folders("models") if self._has_versions(model)]

    def _has_versions(self, model: str) -> bool:
        try:
            return bool(self._line(model).versions())
        except DataLoss:
            # It has some, and whoever asks for them is told.
            return True

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


def _path(folder: str, name: str) -> str:
    digits = hex_part(name)
    return f"{folder}/{digits[:2]}/{digits[2:]}"
