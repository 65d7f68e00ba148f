"""file:///PATH: a store in a directory, on a local disk or a shared volume.

    blobs/<2 hex>/<62 more hex>   immutable, by digest
    models/<model>/               records, see `model_store.file_line`
    staging/                      files being written
    blob-lock                     keeps blobs being named and blobs being deleted apart

Decides where blobs lie, when each was used last (its file's time), and how a reader waits. Every
directory is made with mode 0700, by the first write; opening and reading make nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event, Lock
from time import monotonic
from typing import TypeVar

from chassis.clock import wall_time_ms
from chassis.errors import NotFound
from chassis.failpoints import failpoint
from chassis.names import checked_name
from model_store import durable_files as files
from model_store.blobs import at_once, place
from model_store.digests import ALGORITHM, digest, hex_part, is_digest, verified
from model_store.directory_watch import DirectoryWatches
from model_store.file_line import FileLine
from model_store.line_store import Line, LineStore
from model_store.records import Blob

# A writer killed after its change and before its hint costs its readers this long.
REREAD_S = 1.0

_R = TypeVar("_R")


class FileStore(LineStore):
    """`root` is an absolute path; it need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.url = root.as_uri()
        self._blobs = root / "blobs"
        self._models = root / "models"
        self._staging = root / "staging"
        self._blob_lock = root / "blob-lock"
        self._watches = DirectoryWatches()
        self._closed = Event()
        self._swept = False
        self._sweep_lock = Lock()

    def put_blob(self, content: bytes | memoryview) -> str:
        view = memoryview(content).cast("B")
        name = digest(view)
        path = self._blob_path(name)
        # The time first: a collector that comes in between then leaves it, or took it before.
        if files.touch(path) and files.holds(path, view):
            # Whoever wrote it may not have come as far as this.
            files.sync_directory(path.parent)
            return name
        self._prepare()
        files.ensure_directory(path.parent)
        files.replace_file(path, view, self._staging, point="store.blob")
        return name

    def missing_blobs(self, digests: Sequence[str]) -> set[str]:
        return {name for name in digests if not files.is_file(self._blob_path(name))}

    def read_blob(self, digest: str) -> bytes:
        content = files.read_file(self._blob_path(digest))
        if content is None:
            raise NotFound("BLOB_NOT_FOUND", f"blob {digest} is not in the store")
        return verified(content, digest)

    def read_blob_into(
        self, digest: str, target: memoryview, before: Callable[[int], None] = at_once
    ) -> None:
        if not files.read_file_into(self._blob_path(digest), target, before):
            # Missing or damaged; whole, it is not what the caller thinks.
            before(len(target))
            place(self.read_blob(digest), target, digest)

    def blobs(self) -> Iterator[Blob]:
        for first in files.names_in(self._blobs):
            for rest in files.names_in(self._blobs / first):
                found = files.sized_and_timed(self._blobs / first / rest)
                name = f"{ALGORITHM}:{first}{rest}"
                if found is not None and is_digest(name):
                    yield Blob(name, *found)

    def delete_blob(self, digest: str, *, unused_since_ms: int) -> bool:
        path = self._blob_path(digest)
        self._prepare()
        with files.locked(self._blob_lock):
            found = files.sized_and_timed(path)
            if found is None or found[1] >= unused_since_ms:
                return False
            failpoint("gc.before_blob")
            files.remove_file(path)
        failpoint("gc.after_blob")
        return True

    def _claim_blobs(self, digests: Sequence[str]) -> set[str]:
        with files.locked(self._blob_lock, shared=True):
            return {name for name in digests if not files.touch(self._blob_path(name))}

    def models(self) -> list[str]:
        return sorted(
            model for model in files.names_in(self._models) if self._line(model).versions()
        )

    def wait_for_change(self, model: str, seen: int, timeout_s: float) -> int:
        line = self._line(checked_name(model, what="model"))
        give_up_at = monotonic() + timeout_s
        while True:
            # The watch before the hint and the hint before the truth: whatever changes in between
            # shows in the one looked at later.
            with self._watches.watching(line.root) as watch:
                hint = line.hint()
                revision = line.revision()
                if revision != seen or monotonic() >= give_up_at or self._closed.is_set():
                    return revision
                until = min(give_up_at, monotonic() + REREAD_S)
                while line.hint() == hint and monotonic() < until and not self._closed.is_set():
                    watch.wait(until - monotonic(), self._closed)

    def close(self) -> None:
        self._closed.set()
        self._watches.close()

    def _blob_path(self, name: str) -> Path:
        digits = hex_part(name)
        return self._blobs / digits[:2] / digits[2:]

    def _line(self, model: str) -> FileLine:
        return FileLine(model, self._models / model, self._staging)

    def _change(self, model: str, change: Callable[[Line], _R]) -> _R:
        self._prepare()
        line = self._line(model)
        line.prepare()
        with files.locked(line.lock):
            return change(line)

    def _prepare(self) -> None:
        if self._swept:
            return
        with self._sweep_lock:
            files.ensure_directory(self._staging)
            files.sweep(self._staging, now_s=wall_time_ms() / 1000)
            self._swept = True
