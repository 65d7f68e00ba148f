"""Whether a store is whole: every record read, every blob there and what its digest says.

Decides what counts as damage and whom it hurts; changes nothing. Whatever comes or goes while it
looks is no damage: a blob that is missing is looked for again, and its version too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from chassis.errors import DataLoss, NotFound
from model_store.records import Blob, Manifest
from model_store.side_by_side import side_by_side
from model_store.store import Store

# Each holds one blob in memory.
_THREADS = 4
_RECORD_THREADS = 8


class Kind(StrEnum):
    """What is wrong."""

    DAMAGED_RECORDS = "damaged records"
    """What the store keeps of a model in one piece cannot be read."""
    DAMAGED_MANIFEST = "damaged manifest"
    DAMAGED_CHANNEL = "damaged channel"
    LOST_TARGET = "lost target"
    """A channel points to a version that is not there."""
    MISSING_BLOB = "missing blob"
    WRONG_SIZE = "wrong size"
    DAMAGED_BLOB = "damaged blob"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: `what` it is, and which versions suffer, as MODEL/VERSION.

    `suffering` holds the first few of `suffering_count`, none for a blob that no version names.
    """

    kind: Kind
    what: str
    message: str
    suffering: tuple[str, ...] = ()
    suffering_count: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found. `orphans` are blobs that no version names: no damage, and collected once
    the grace is over; empty where only one model was looked at."""

    models: int
    versions: int
    channels: int
    blobs: int
    blob_bytes: int
    orphans: tuple[Blob, ...]
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class _Need:
    """Who needs a blob, and of what size."""

    size_bytes: int
    first: list[tuple[str, int]] = field(default_factory=list)
    count: int = 0


_SHOWN = 5


def _silent(_step: str, _done: int, _total: int) -> None:
    return


@dataclass
class Check:
    """One look at `store`, or at one `model` of it; `sizes_only` reads no blob.

    `on_progress` is told the step, how far it is and of how many (0: unknown).
    """

    store: Store
    model: str | None = None
    sizes_only: bool = False
    on_progress: Callable[[str, int, int], None] = _silent
    _findings: list[Finding] = field(default_factory=list, init=False)
    _needs: dict[str, _Need] = field(default_factory=dict, init=False)

    def run(self) -> Report:
        """Looks. Raises what the store raises when it does not answer, and NotFound
        (MODEL_NOT_FOUND) where `model` has no version."""
        models = self._models()
        versions, channels = 0, 0
        for done, model in enumerate(models):
            self.on_progress("records", done, len(models))
            versions += self._check_manifests(model)
            channels += self._check_channels(model)
        stored = {blob.digest: blob for blob in self._listed()}
        self._check_presence(stored)
        orphans = [blob for name, blob in stored.items() if name not in self._needs]
        if not self.sizes_only:
            unsound = {finding.what for finding in self._findings}
            self._check_contents([blob for name, blob in stored.items() if name not in unsound])
        return Report(
            models=len(models),
            versions=versions,
            channels=channels,
            blobs=len(stored),
            blob_bytes=sum(blob.size_bytes for blob in stored.values()),
            orphans=tuple(orphans),
            findings=tuple(sorted(self._findings, key=lambda one: (one.kind, one.what))),
        )

    def _models(self) -> list[str]:
        models = self.store.models()
        if self.model is None:
            return models
        if self.model not in models:
            raise NotFound(
                "MODEL_NOT_FOUND",
                f"model {self.model!r} has no version in this store",
                field="model",
            )
        return [self.model]

    def _check_manifests(self, model: str) -> int:
        try:
            versions = self.store.versions(model)
        except DataLoss as error:
            self._find(Kind.DAMAGED_RECORDS, model, error.message)
            return 0
        read = side_by_side(partial(self._manifest, model), versions, _RECORD_THREADS)
        for manifest in read:
            if manifest is not None:
                self._note_needs(manifest)
        return len(versions)

    def _manifest(self, model: str, version: int) -> Manifest | None:
        try:
            return self.store.manifest(model, version)
        except NotFound:
            return None
        except DataLoss as error:
            what = f"{model}/{version}"
            self._findings.append(Finding(Kind.DAMAGED_MANIFEST, what, error.message, (what,), 1))
            return None

    def _note_needs(self, manifest: Manifest) -> None:
        for name, size_bytes in manifest.blob_sizes().items():
            need = self._needs.setdefault(name, _Need(size_bytes))
            need.count += 1
            if len(need.first) < _SHOWN:
                need.first.append((manifest.model, manifest.version))

    def _check_channels(self, model: str) -> int:
        try:
            channels = self.store.channels(model)
            versions = set(self.store.versions(model))
        except DataLoss as error:
            if error.reason == "CHANNEL_DAMAGED":
                self._find(Kind.DAMAGED_CHANNEL, model, error.message)
            return 0
        for channel in channels:
            # A version made since the list was read is no loss.
            if channel.version not in versions and not self._exists(model, channel.version):
                self._find(
                    Kind.LOST_TARGET,
                    f"{model}@{channel.name}",
                    f"channel {channel.name!r} of model {model!r} points to version "
                    f"{channel.version}, which is not in the store",
                )
        return len(channels)

    def _exists(self, model: str, version: int) -> bool:
        try:
            self.store.manifest(model, version)
        except NotFound:
            return False
        except DataLoss:
            return True
        return True

    def _listed(self) -> Iterator[Blob]:
        for done, blob in enumerate(self.store.blobs()):
            self.on_progress("blobs listed", done, 0)
            if self.model is None or blob.digest in self._needs:
                yield blob

    def _check_presence(self, stored: dict[str, Blob]) -> None:
        for name, need in self._needs.items():
            blob = stored.get(name)
            if blob is None:
                self._look_again(name, need)
            elif blob.size_bytes != need.size_bytes:
                self._find_blob(
                    Kind.WRONG_SIZE,
                    name,
                    f"blob {name} holds {blob.size_bytes} bytes, its manifest says "
                    f"{need.size_bytes}",
                )

    def _look_again(self, name: str, need: _Need) -> None:
        needed = any(self._exists(*version) for version in need.first)
        if needed and self.store.missing_blobs([name]):
            self._find_blob(Kind.MISSING_BLOB, name, f"blob {name} is not in the store")

    def _check_contents(self, blobs: Sequence[Blob]) -> None:
        read = side_by_side(lambda blob: self._check_content(blob.digest), blobs, _THREADS)
        for done, _ in enumerate(read):
            self.on_progress("blobs read", done + 1, len(blobs))

    def _check_content(self, name: str) -> None:
        try:
            self.store.read_blob(name)
        except DataLoss as error:
            self._find_blob(Kind.DAMAGED_BLOB, name, error.message)
        except NotFound:
            # Collected since it was listed, unless a version needs it.
            if name in self._needs:
                self._look_again(name, self._needs[name])

    def _find(self, kind: Kind, what: str, message: str) -> None:
        self._findings.append(Finding(kind, what, message))

    def _find_blob(self, kind: Kind, name: str, message: str) -> None:
        need = self._needs.get(name, _Need(0))
        suffering = tuple(f"{model}/{version}" for model, version in need.first)
        self._findings.append(Finding(kind, name, message, suffering, need.count))
