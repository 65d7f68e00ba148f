"""What a publisher published last, and its next version as changes of that.

Decides when a version is a delta and when an anchor, every tensor of which is stored: after
`MOST_DELTAS` steps, where the steps together would exceed half of the weights, where a delta would
not be smaller, and where nothing is known of a version before. Keeps one copy of the weights in
memory. How a delta is coded is left to `model_store.delta`, what is sent to the publisher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from model_store import delta
from model_store.delta import TensorDelta
from model_store.digests import digest
from model_store.records import DeltaStep, Manifest, TensorEntry

# A reader without any version reads this many blobs more; a delta lost costs as many versions.
MOST_DELTAS = 16

# The steps together, as a part of the weights: bounds what such a reader reads and applies.
MOST_DELTA_BYTES = 0.5

Contents = Mapping[str, memoryview]


@dataclass(frozen=True, slots=True)
class _Published:
    manifest: Manifest
    # By digest, of every tensor: views of the snapshot's memory.
    contents: Contents


class Lineage:
    """The versions of one publisher, each on the shoulders of the last."""

    def __init__(self) -> None:
        self._last: _Published | None = None

    def published(self, made: Manifest, contents: Contents) -> None:
        """Keeps `made` as what the next version may change."""
        needed = {entry.digest: contents[entry.digest] for entry in made.tensors}
        self._last = _Published(made, needed)

    def derived(self, manifest: Manifest, contents: Contents) -> tuple[Manifest, bytes] | None:
        """`manifest`, which stores every tensor, as deltas, and the blob of its new step.

        The blob is empty where nothing changed. None where the version has to be an anchor.
        """
        last = self._last
        if last is None or last.manifest.epoch != manifest.epoch:
            return None
        if len(last.manifest.deltas) >= MOST_DELTAS:
            return None
        changes = _Changes(last, manifest, contents)
        blob = changes.encoded()
        derived = replace(
            manifest, tensors=tuple(changes.entries), deltas=_steps(last.manifest, blob)
        )
        if not any(entry.base_digest for entry in derived.tensors):
            return None
        return (derived, blob) if _pays(last.manifest, manifest, derived, blob) else None


class _Changes:
    """The tensors of `manifest` beside those published last."""

    def __init__(self, last: _Published, manifest: Manifest, contents: Contents) -> None:
        self.entries: list[TensorEntry] = []
        self._last = last
        self._manifest = manifest
        self._contents = contents
        self._names = _tied_names(last.manifest, manifest)
        self._made: dict[tuple[str, str, str], TensorDelta | None] = {}
        old = {entry.name: entry for entry in last.manifest.tensors}
        for entry in manifest.tensors:
            self.entries.append(self._entry(old.get(entry.name), entry))

    def encoded(self) -> bytes:
        """The blob of all changes; empty where there are none."""
        tensors = [tensor for tensor in self._made.values() if tensor is not None]
        if not tensors:
            return b""
        return delta.encode(self._manifest.model, self._last.manifest.version, tensors)

    def _entry(self, old: TensorEntry | None, new: TensorEntry) -> TensorEntry:
        if old is None or (old.datatype, old.shape) != (new.datatype, new.shape):
            return new
        if old.digest == new.digest:
            return replace(new, base_digest=old.base_digest)
        if new.digest == old.base_digest or self._difference(old, new) is None:
            return new
        return replace(new, base_digest=old.stored_digest)

    def _difference(self, old: TensorEntry, new: TensorEntry) -> TensorDelta | None:
        key = (old.digest, new.digest, new.datatype)
        if key not in self._made:
            before, after = self._last.contents[old.digest], self._contents[new.digest]
            self._made[key] = delta.difference(old, new, before, after, self._names[key])
        return self._made[key]


def _tied_names(last: Manifest, manifest: Manifest) -> dict[tuple[str, str, str], tuple[str, ...]]:
    """Names of the tensors that change alike, in order."""
    old = {entry.name: entry for entry in last.tensors}
    names: dict[tuple[str, str, str], tuple[str, ...]] = {}
    for new in manifest.tensors:
        before = old.get(new.name)
        if before is not None and new.digest not in (before.digest, before.base_digest):
            key = (before.digest, new.digest, new.datatype)
            names[key] = (*names.get(key, ()), new.name)
    return names


def _steps(last: Manifest, blob: bytes) -> tuple[DeltaStep, ...]:
    if not blob:
        return last.deltas
    return (*last.deltas, DeltaStep(last.version, digest(blob), len(blob)))


def _pays(last: Manifest, manifest: Manifest, derived: Manifest, blob: bytes) -> bool:
    """Whether the deltas stay short and less is sent than for an anchor."""
    sizes = {entry.digest: entry.size_bytes for entry in manifest.tensors}
    if sum(step.size_bytes for step in derived.deltas) > MOST_DELTA_BYTES * sum(sizes.values()):
        return False
    stored = {entry.stored_digest for entry in last.tensors}
    for_anchor = sum(sizes[name] for name in sizes.keys() - stored)
    whole = {entry.digest for entry in derived.tensors if not entry.base_digest}
    return len(blob) + sum(sizes[name] for name in whole - stored) < for_anchor
