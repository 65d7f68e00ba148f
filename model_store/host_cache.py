"""One download per host: blobs in a directory that the readers of a machine share.

    blobs/<2 hex>/<62 more hex>   whole blobs, by digest
    fetching/<hex>                whoever downloads a blob locks this; the others wait, then find it

Decides who downloads, and what goes where the directory is full: the blobs not read for longest. It
is a cache: every byte is verified when it is read, or by who reads it into its place; a damaged
blob is dropped and fetched anew, and where the directory cannot be used its readers go to the
source themselves.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkstemp
from time import monotonic, sleep

from prometheus_client import Counter

from chassis.errors import DataLoss, HeadraceError
from chassis.telemetry import REGISTRY, logger
from model_store.blobs import Blobs, at_once, place
from model_store.digests import hex_part, verified
from model_store.durable_files import read_file_into

log = logger(__name__)

# For a download by somebody else; who has waited this long for it downloads as well.
WAIT_S = 120.0
_LOOK_S = 0.005

BYTES = Counter(
    "headrace_host_cache_bytes",
    "Bytes of blobs read, by where they came from: cache or source",
    ["origin"],
    registry=REGISTRY,
)
_FROM_CACHE, _FROM_SOURCE = BYTES.labels("cache"), BYTES.labels("source")


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file of the cache: its size and when it was last read, in nanoseconds."""

    path: Path
    size_bytes: int
    read_ns: int


class HostCache:
    """Blobs of `source` through `directory`, which holds about `max_bytes`. Thread-safe.

    `source` is what this machine's first reader of a blob asks. A blob larger than `max_bytes` is
    not kept.
    """

    def __init__(self, directory: Path, source: Blobs, *, max_bytes: int) -> None:
        self._blobs = directory / "blobs"
        self._fetching = directory / "fetching"
        self._source = source
        self._max_bytes = max_bytes
        self._usable = True

    def read_blob(self, digest: str) -> bytes:
        """From the cache, else from the source. Raises what the source raises."""
        return self.fetched(digest, lambda: self._source.read_blob(digest))

    def read_blob_into(
        self, digest: str, target: memoryview, before: Callable[[int], None] = at_once
    ) -> None:
        """As `Store.read_blob_into`, from the cache, else from the source."""
        if self._read_into(self._path(digest), target, before):
            _FROM_CACHE.inc(len(target))
            return
        # It is read as a whole.
        before(len(target))
        place(self.read_blob(digest), target, digest)

    def _read_into(self, path: Path, target: memoryview, before: Callable[[int], None]) -> bool:
        # Whatever is wrong with the cache, the source may be right; who gives up wants neither.
        given_up: list[BaseException] = []

        def ask(size: int) -> None:
            try:
                before(size)
            except BaseException as error:
                given_up.append(error)
                raise

        try:
            found = read_file_into(path, target, ask)
            if found:
                os.utime(path)
        except (HeadraceError, OSError):
            if given_up:
                raise given_up[0] from None
            return False
        return found

    def fetched(self, digest: str, download: Callable[[], bytes]) -> bytes:
        """From the cache, else what `download` returns; one download at a time on this machine."""
        found = self.held(digest)
        if found is not None:
            return found
        with self._lock(digest):
            # Whoever held the lock may have brought it.
            found = self.held(digest)
            if found is not None:
                return found
            content = download()
            _FROM_SOURCE.inc(len(content))
            self._keep(digest, content)
            return content

    def held(self, digest: str) -> bytes | None:
        """The blob if it is in the cache, whole; a damaged one is dropped."""
        path = self._path(digest)
        try:
            content = path.read_bytes()
            verified(content, digest)
            os.utime(path)
        except DataLoss as error:
            log.warning("dropped from the host's cache", why=error.message)
            path.unlink(missing_ok=True)
            return None
        except OSError:
            return None
        _FROM_CACHE.inc(len(content))
        return content

    def _path(self, digest: str) -> Path:
        digits = hex_part(digest)
        return self._blobs / digits[:2] / digits[2:]

    @contextmanager
    def _lock(self, digest: str) -> Iterator[None]:
        """Held by one reader of this blob; not held at all where that cannot be had."""
        try:
            _make_private(self._fetching)
            path = self._fetching / hex_part(digest)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._warn(error)
            yield
            return
        try:
            _wait_for(descriptor)
            yield
        finally:
            # Unlinked before it is unlocked: who waits on it then holds a lock of nothing, finds
            # the blob and goes on.
            with suppress(OSError):
                path.unlink()
            os.close(descriptor)

    def _keep(self, digest: str, content: bytes) -> None:
        if len(content) > self._max_bytes:
            return
        path = self._path(digest)
        try:
            _make_private(path.parent)
            self._make_room(len(content))
            # Not synced: what a power cut tears is seen by its digest.
            descriptor, name = mkstemp(prefix=".", dir=path.parent)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            Path(name).replace(path)
        except OSError as error:
            self._warn(error)

    def _make_room(self, size_bytes: int) -> None:
        kept = sorted(self._listed(), key=lambda one: one.read_ns)
        held = sum(one.size_bytes for one in kept)
        for one in kept:
            if held + size_bytes <= self._max_bytes:
                return
            one.path.unlink(missing_ok=True)
            held -= one.size_bytes

    def _listed(self) -> Iterator[_Kept]:
        for folder in self._blobs.iterdir():
            for path in folder.iterdir():
                # Another reader may have dropped it meanwhile.
                with suppress(FileNotFoundError):
                    status = path.stat()
                    yield _Kept(path, status.st_size, status.st_mtime_ns)

    def _warn(self, error: OSError) -> None:
        if self._usable:
            self._usable = False
            log.warning(
                "the host's cache cannot be used: blobs come from their source",
                directory=str(self._blobs.parent),
                why=error.strerror,
            )


def _make_private(directory: Path) -> None:
    for part in reversed((directory, *directory.parents)):
        if not part.exists():
            part.mkdir(mode=0o700, exist_ok=True)


def _wait_for(descriptor: int) -> None:
    give_up_at = monotonic() + WAIT_S
    while monotonic() < give_up_at:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        sleep(_LOOK_S)
