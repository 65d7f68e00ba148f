"""Garbage collection of a whole store: versions that nobody needs, then blobs that none names.

Decides the order, which is what makes it safe beside readers and publishers: the moment first, then
the manifests, then removing, then the manifests again, then the blobs unused since that moment.
What stays is decided in `model_store.retention`; that nothing is taken from under a reader or a
publisher is each store's part. May be killed anywhere and run again, and run beside another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from chassis.errors import DataLoss, InvalidArgument, NotFound
from chassis.failpoints import failpoint
from model_store.records import Blob
from model_store.retention import Line, retained
from model_store.side_by_side import side_by_side
from model_store.store import Store

DEFAULT_KEEP = 10
DEFAULT_GRACE_S = 3600.0
# In S3 a use of a blob may be noted up to ten minutes late; see `s3_store.MARK_AFTER_S`.
LEAST_GRACE_S = 900.0

_THREADS = 8


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator wants kept: the newest `keep` versions of each model, and whatever is
    younger or was used more lately than `grace_s`. A `dry_run` changes nothing.

    Raises InvalidArgument (BAD_KEEP, BAD_GRACE).
    """

    keep: int = DEFAULT_KEEP
    grace_s: float = DEFAULT_GRACE_S
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.keep < 0:
            raise InvalidArgument("BAD_KEEP", f"keep must be 0 or more, got {self.keep}")
        if not self.grace_s >= LEAST_GRACE_S:
            raise InvalidArgument(
                "BAD_GRACE",
                f"a grace of {self.grace_s:g} s is too short for a publisher between its blobs and "
                f"its manifest: expected {LEAST_GRACE_S:g} s or more",
            )


@dataclass(frozen=True, slots=True)
class ModelCollection:
    """What became of a model's versions: `removed`, ascending, and why each other stays."""

    model: str
    removed: tuple[int, ...]
    kept: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did, or in a dry run would do.

    `deleted` and `spared` count the blobs that no version names: the latter were used within the
    grace, or could not be judged. `problems` are sentences on what was not touched because it
    cannot be read.
    """

    models: tuple[ModelCollection, ...]
    deleted_blobs: int
    deleted_bytes: int
    spared_blobs: int
    spared_bytes: int
    named_blobs: int
    problems: tuple[str, ...]


def _silent(_step: str, _count: int) -> None:
    return


@dataclass
class Collection:
    """One run on `store`; `now_ms` is the present in milliseconds since the epoch.

    `on_progress` is told the step, and how many models or blobs it is through with.
    """

    store: Store
    wish: Wish
    now_ms: int
    on_progress: Callable[[str, int], None] = _silent
    _problems: list[str] = field(default_factory=list, init=False)
    _unreadable: bool = field(default=False, init=False)

    def run(self) -> Collected:
        """Collects. Raises what the store raises when it does not answer; run it again then."""
        since_ms = self.now_ms - round(self.wish.grace_s * 1000)
        models = [
            self._collect_model(model, since_ms, count)
            for count, model in enumerate(self.store.models())
        ]
        failpoint("gc.after_versions")
        named = self._named({one.model: one.removed for one in models})
        unnamed = _Unnamed()
        for blob, deleted in self._deletions(named, since_ms):
            unnamed.count(blob, deleted=deleted)
            self.on_progress("blobs", unnamed.seen)
        return Collected(
            models=tuple(models),
            deleted_blobs=unnamed.deleted_blobs,
            deleted_bytes=unnamed.deleted_bytes,
            spared_blobs=unnamed.spared_blobs,
            spared_bytes=unnamed.spared_bytes,
            named_blobs=len(named),
            problems=tuple(self._problems),
        )

    def _collect_model(self, model: str, since_ms: int, count: int) -> ModelCollection:
        self.on_progress("models", count)
        try:
            line = self._read(model)
        except DataLoss as error:
            return self._left_alone(model, error)
        kept = retained(line, keep=self.wish.keep, since_ms=since_ms)
        going = sorted(line.made_ms.keys() - kept.keys())
        if self.wish.dry_run:
            return ModelCollection(model, tuple(going), kept)
        # Asked for nothing too: it clears what a killed collector left, and no publisher that
        # looked at its blobs before may go on without looking again.
        removal = self.store.remove_versions(model, going)
        return ModelCollection(model, removal.removed, {**kept, **removal.kept})

    def _left_alone(self, model: str, error: DataLoss) -> ModelCollection:
        self._problems.append(f"no version of model {model!r} was removed: {error.message}")
        try:
            versions = self.store.versions(model)
            if not self.wish.dry_run:
                self.store.remove_versions(model, [])
        except DataLoss:
            # The next reading says so, and keeps every blob.
            versions = []
        return ModelCollection(model, (), dict.fromkeys(versions, error.message))

    def _read(self, model: str) -> Line:
        channels, leases = self.store.channels(model), self.store.leases(model)
        versions = self.store.versions(model)
        made = side_by_side(partial(self._made_ms, model), versions, _THREADS)
        return Line(channels, leases, dict(zip(versions, made, strict=True)))

    def _made_ms(self, model: str, version: int) -> int | None:
        try:
            return self.store.manifest(model, version).create_time_ms
        except DataLoss:
            return None
        except NotFound:
            # Another collector was here: whatever is decided of it now comes to nothing.
            return 0

    def _named(self, removed: Mapping[str, Sequence[int]]) -> set[str]:
        """The digests that the versions left name; a dry run leaves out what would be removed."""
        named: set[str] = set()
        for model in self.store.models():
            try:
                left = set(self.store.versions(model)) - set(removed.get(model, ()))
            except DataLoss as error:
                self._cannot_read(error)
                continue
            read = partial(self._digests, model)
            for digests in side_by_side(read, sorted(left), _THREADS):
                named.update(digests)
        return named

    def _digests(self, model: str, version: int) -> list[str]:
        try:
            return self.store.manifest(model, version).digests()
        except NotFound:
            return []
        except DataLoss as error:
            self._cannot_read(error)
            return []

    def _cannot_read(self, error: DataLoss) -> None:
        self._unreadable = True
        self._problems.append(
            f"no blob was deleted: {error.message}, so nobody knows which it needs; remove it "
            "with `headrace versions remove`, or repair it"
        )

    def _deletions(self, named: set[str], since_ms: int) -> Iterator[tuple[Blob, bool]]:
        """Each blob that no version names, and whether it was deleted."""
        found = (blob for blob in self.store.blobs() if blob.digest not in named)
        if self._unreadable:
            return iter((blob, False) for blob in found)
        if self.wish.dry_run:
            return iter((blob, blob.use_time_ms < since_ms) for blob in found)
        return side_by_side(lambda blob: self._deleted(blob, since_ms), found, _THREADS)

    def _deleted(self, blob: Blob, since_ms: int) -> tuple[Blob, bool]:
        old = blob.use_time_ms < since_ms
        return blob, old and self.store.delete_blob(blob.digest, unused_since_ms=since_ms)


@dataclass
class _Unnamed:
    """Counts of the blobs that no version names."""

    deleted_blobs: int = 0
    deleted_bytes: int = 0
    spared_blobs: int = 0
    spared_bytes: int = 0

    @property
    def seen(self) -> int:
        return self.deleted_blobs + self.spared_blobs

    def count(self, blob: Blob, *, deleted: bool) -> None:
        if deleted:
            self.deleted_blobs += 1
            self.deleted_bytes += blob.size_bytes
        else:
            self.spared_blobs += 1
            self.spared_bytes += blob.size_bytes
