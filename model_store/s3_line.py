"""One model's records in a bucket.

    models/<model>/line                  the line: newest version, channels, epoch, revision
                   versions/<12 digits>  manifests of the versions before the newest
                   commits/<hex>         their numbers, by the digest of their commit id

Decides what makes a version exist: the line that names it. The newest manifest lies in the line
itself and moves into an object of its own before the line names the next, so that one conditional
write makes a version, fences it and is what a reader reads.
"""

from __future__ import annotations

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
from model_store.records import Channel, Manifest
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

    def versions(self) -> list[int]:
        return list(range(1, self._state.newest + 1))

    def manifest(self, version: int) -> Manifest | None:
        if not 1 <= version <= self._state.newest:
            return None
        if version == self._state.newest:
            return decode_manifest(self._state.manifest, self._model, version)
        stored = self._objects.read(self._version_path(version))
        if stored is None:
            raise DataLoss(
                "MANIFEST_DAMAGED",
                f"the manifest of model {self._model!r} version {version} is gone from the store",
            )
        return decode_manifest(stored.content, self._model, version)

    def committed(self, commit_id: str) -> Manifest | None:
        if self._state.newest and commit_id == self._state.commit_id:
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

    def _archive(self) -> None:
        state = self._state
        if not state.newest:
            return
        # Any writer writes the same here, a late one too: what a version is never changes.
        self._objects.put(self._version_path(state.newest), state.manifest)
        self._objects.put(self._commit_path(state.commit_id), str(state.newest).encode())
        failpoint("store.manifest.after_archive")

    def _version_path(self, version: int) -> str:
        return f"{self._folder}/versions/{version:012d}"

    def _commit_path(self, commit_id: str) -> str:
        return f"{self._folder}/commits/{hex_part(digest(commit_id.encode()))}"
