"""One model's records in a bucket.

    models/<model>/line                  the line: newest version, channels, epoch, revision,
                                         leases, which versions were removed
                   versions/<12 digits>  manifests of the versions before the newest
                   commits/<hex>         their numbers, by the digest of their commit id

Decides what makes a version exist: the line that names it. The newest manifest lies in the line
itself and moves into an object of its own before the line names the next, so that one conditional
write makes a version, fences it and is what a reader reads. One such write removes versions too,
and sees every lease; objects of theirs that are left over say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from uuid import uuid4

from chassis.errors import DataLoss
from chassis.failpoints import failpoint
from model_store.digests import digest, hex_part
from model_store.line_bytes import LineState, decode_line, encode_line
from model_store.line_store import Line
from model_store.record_bytes import (
    decode_channel,
    decode_manifest,
    encode_channel,
    encode_manifest,
)
from model_store.records import Channel, Lease, Manifest
from model_store.s3_objects import S3Object, S3Objects


class S3Line(Line):
    """The line as it is when this is made, and what a writer makes of it until `commit`."""

    def __init__(self, objects: S3Objects, model: str) -> None:
        self._objects = objects
        self._model = model
        self._folder = f"models/{model}"
        self.path = f"{self._folder}/line"
        self._read_from(objects.read(self.path))

    def _read_from(self, stored: S3Object | None) -> None:
        self.tag = "" if stored is None else stored.tag
        self._stored = LineState() if stored is None else decode_line(stored.content, self._model)
        self._state = self._stored

    def epoch(self) -> int:
        return self._state.epoch

    def newest(self) -> int:
        return self._state.newest

    def versions(self) -> list[int]:
        return self._state.gaps.others(self._state.newest)

    def manifest(self, version: int) -> Manifest | None:
        if not 1 <= version <= self._state.newest or version in self._state.gaps:
            return None
        if version == self._state.newest:
            return decode_manifest(self._state.manifest, self._model, version)
        stored = self._objects.read(self._version_path(version))
        if stored is None and self._was_removed(version):
            return None
        if stored is None:
            raise DataLoss(
                "MANIFEST_DAMAGED",
                f"the manifest of model {self._model!r} version {version} is gone from the store",
            )
        return decode_manifest(stored.content, self._model, version)

    def committed(self, commit_id: str) -> Manifest | None:
        if commit_id == self._state.commit_id:
            return self.manifest(self._state.newest)
        stored = self._objects.read(self._commit_path(commit_id))
        if stored is None or not stored.content.isdigit():
            return None
        return self.manifest(int(stored.content))

    def channel(self, name: str) -> Channel | None:
        record = self._state.channels.get(name)
        return None if record is None else decode_channel(record, self._model, name)

    def channel_names(self) -> list[str]:
        return list(self._state.channels)

    def revision(self) -> int:
        return self._state.revision

    def add_epoch(self, epoch: int, owner: str) -> bool:
        self._state = replace(self._state, epoch=epoch, owner=owner)
        return True

    def add_manifest(self, manifest: Manifest) -> bool:
        self._archive()
        self._state = replace(
            self._state,
            newest=manifest.version,
            manifest=encode_manifest(manifest),
            commit_id=manifest.commit_id,
            revision=self._state.revision + 1,
        )
        return True

    def put_channel(self, channel: Channel) -> None:
        channels = {**self._state.channels, channel.name: encode_channel(channel)}
        self._state = replace(self._state, channels=channels, revision=self._state.revision + 1)

    def leases(self) -> list[Lease]:
        return list(self._state.leases)

    def put_lease(self, lease: Lease) -> None:
        self.drop_lease(lease.version, lease.holder)
        self._set_leases([*self._state.leases, lease])

    def drop_lease(self, version: int, holder: str) -> None:
        dropped = (version, holder)
        self._set_leases(
            [lease for lease in self._state.leases if (lease.version, lease.holder) != dropped]
        )

    def _set_leases(self, leases: Sequence[Lease]) -> None:
        ordered = sorted(leases, key=lambda lease: (lease.version, lease.holder))
        self._state = replace(self._state, leases=tuple(ordered))

    def remove(self, versions: Sequence[int]) -> None:
        state = self._state
        if state.newest in versions:
            state = replace(state, manifest=b"", commit_id="")
        # Counted also where none goes: a writer stopped since before it looked at its blobs must
        # not commit after them.
        self._state = replace(
            state, gaps=state.gaps.widened(versions), collections=state.collections + 1
        )

    def sweep(self) -> None:
        for name in self._objects.names(f"{self._folder}/versions"):
            if name.isdecimal() and int(name) in self._state.gaps:
                self._sweep_version(int(name))

    def _sweep_version(self, version: int) -> None:
        # The commit first: only the manifest knows it.
        path = self._version_path(version)
        stored = self._objects.read(path)
        if stored is not None:
            with suppress(DataLoss):
                manifest = decode_manifest(stored.content, self._model, version)
                self._objects.delete(self._commit_path(manifest.commit_id))
        failpoint("gc.after_commit_name")
        self._objects.delete(path)
        failpoint("gc.after_manifest")

    def commit(self) -> bool:
        """Whether the line is what this made of it: False where another writer came between."""
        if self._state == self._stored:
            return True
        made = replace(self._state, write_id=uuid4().hex)
        if self._objects.put_if(self.path, encode_line(made), self.tag):
            return True
        # The client repeats a write whose answer was lost, and is then refused by its own.
        self._read_from(self._objects.read(self.path))
        return self._stored.write_id == made.write_id

    def _was_removed(self, version: int) -> bool:
        """Whether it is gone from the line too by now: a collector came between."""
        stored = self._objects.read(self.path)
        return stored is not None and version in decode_line(stored.content, self._model).gaps

    def _archive(self) -> None:
        state = self._state
        if not state.manifest:
            return
        # Any writer writes the same here, a late one too: what a version is never changes.
        self._objects.put(self._version_path(state.newest), state.manifest)
        self._objects.put(self._commit_path(state.commit_id), str(state.newest).encode())
        failpoint("store.manifest.after_archive")

    def _version_path(self, version: int) -> str:
        return f"{self._folder}/versions/{version:012d}"

    def _commit_path(self, commit_id: str) -> str:
        return f"{self._folder}/commits/{hex_part(digest(commit_id.encode()))}"
