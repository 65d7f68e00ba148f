"""One model's records as files.

    models/<model>/versions/<12 digits>   manifests; a version exists when its name does
                   commits/<hex>          the same files again, by the digest of their commit id
                   channels/<name>        channels, replaced whole
                   epochs/<12 digits>     one per epoch handed out; holds its owner
                   leases/<12 digits>-<hex>   one per leased version and holder
                   floors/<12 digits>     numbers handed out whose versions may be gone
                   lock                   the writers' advisory lock
                   changed                a hint: its content changes when the revision may have

Decides what is derived rather than stored: the newest version, the newest epoch and the revision
come from the names and records themselves, so that no crash leaves a counter behind the truth.
A floor is made only before the newest version is removed, whose number would else come again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from chassis.errors import DataLoss, HeadraceError
from chassis.failpoints import failpoint
from model_store import durable_files as files
from model_store.digests import digest, hex_part
from model_store.line_store import Line
from model_store.record_bytes import (
    decode_channel,
    decode_lease,
    decode_manifest,
    encode_channel,
    encode_lease,
    encode_manifest,
)
from model_store.records import Channel, Lease, Manifest

_DIGITS = 12


class FileLine(Line):
    """`root` is the model's directory, `staging` one on the same file system."""

    def __init__(self, model: str, root: Path, staging: Path) -> None:
        self.root = root
        self._model = model
        self._staging = staging
        self._versions = root / "versions"
        self._commits = root / "commits"
        self._channels = root / "channels"
        self._epochs = root / "epochs"
        self._leases = root / "leases"
        self._floors = root / "floors"
        self._changed = root / "changed"
        self.lock = root / "lock"

    def prepare(self) -> None:
        """Makes the directories; before the first write."""
        for directory in (
            self._versions,
            self._commits,
            self._channels,
            self._epochs,
            self._leases,
            self._floors,
        ):
            files.ensure_directory(directory)

    def epoch(self) -> int:
        return max(_numbers_in(self._epochs), default=0)

    def newest(self) -> int:
        return max([*_numbers_in(self._floors), *_numbers_in(self._versions)], default=0)

    def versions(self) -> list[int]:
        return sorted(_numbers_in(self._versions))

    def manifest(self, version: int) -> Manifest | None:
        record = files.read_file(self._versions / _numbered(version))
        return None if record is None else decode_manifest(record, self._model, version)

    def committed(self, commit_id: str) -> Manifest | None:
        record = files.read_file(self._commit_path(commit_id))
        if record is None:
            return None
        # The commit's name is linked before the version's. A writer killed between the two leaves
        # a commit that made nothing, and its number to somebody else: the version must name it.
        made = self.manifest(decode_manifest(record, self._model).version)
        if made is None or made.commit_id != commit_id:
            return None
        # The earlier attempt may have failed at just this.
        files.sync_directory(self._versions)
        return made

    def channel(self, name: str) -> Channel | None:
        record = files.read_file(self._channels / name)
        return None if record is None else decode_channel(record, self._model, name)

    def channel_names(self) -> list[str]:
        return files.names_in(self._channels)

    def revision(self) -> int:
        # Versions are never handed out twice and each move adds one to its channel's revision, so
        # the sum grows with every change, and nothing has to be written for it to do so.
        return self.newest() + sum(self._moves(name) for name in self.channel_names())

    def _moves(self, name: str) -> int:
        try:
            channel = self.channel(name)
        except DataLoss:
            # Whoever reads that channel is told; the model's other channels still have readers.
            return 0
        return 0 if channel is None else channel.revision

    def hint(self) -> bytes | None:
        """Differs from an earlier hint if the revision grew, unless the writer was killed."""
        return files.read_file(self._changed)

    def add_epoch(self, epoch: int, owner: str) -> bool:
        final = self._epochs / _numbered(epoch)
        return files.create_files([final], owner.encode(), self._staging, point="store.epoch")

    def add_manifest(self, manifest: Manifest) -> bool:
        commit = self._commit_path(manifest.commit_id)
        # Left by a writer killed before it made its version; see committed.
        files.remove_file(commit)
        version = self._versions / _numbered(manifest.version)
        record = encode_manifest(manifest)
        made = files.create_files([commit, version], record, self._staging, point="store.manifest")
        if made:
            self._tell()
        return made

    def put_channel(self, channel: Channel) -> None:
        final = self._channels / channel.name
        record = encode_channel(channel)
        files.replace_file(final, record, self._staging, point="store.channel")
        self._tell()

    def leases(self) -> list[Lease]:
        names = files.names_in(self._leases)
        records = ((name, files.read_file(self._leases / name)) for name in names)
        # A name whose file is gone by now was released.
        return [
            decode_lease(record, f"lease {name} of model {self._model!r}")
            for name, record in records
            if record is not None
        ]

    def put_lease(self, lease: Lease) -> None:
        final = self._lease_path(lease.version, lease.holder)
        files.replace_file(final, encode_lease(lease), self._staging, point="store.lease")

    def drop_lease(self, version: int, holder: str) -> None:
        files.remove_file(self._lease_path(version, holder))

    def remove(self, versions: Sequence[int]) -> None:
        if not versions:
            return
        if versions[-1] == self.newest():
            floor = self._floors / _numbered(versions[-1])
            files.create_files([floor], b"", self._staging, point="gc.floor")
        for version in versions:
            failpoint("gc.before_unlink")
            files.remove_file(self._versions / _numbered(version))
            failpoint("gc.after_unlink")
        # Before the blobs may go: a power cut must not bring back a version that lost them.
        files.sync_directory(self._versions)
        failpoint("gc.after_remove")

    def sweep(self) -> None:
        # A version's file has two names. Where only the commit's is left, the version was removed,
        # or its writer was killed before it made it; one at work has a third name in staging.
        for name in files.names_in(self._commits):
            if files.names_of(self._commits / name) == 1:
                files.remove_file(self._commits / name)
                failpoint("gc.after_commit_name")

    def _lease_path(self, version: int, holder: str) -> Path:
        return self._leases / f"{_numbered(version)}-{hex_part(digest(holder.encode()))}"

    def _tell(self) -> None:
        # The change is committed: a hint that cannot be written costs one re-read, not an error.
        with suppress(HeadraceError):
            files.hint_file(self._changed, str(self.revision()).encode(), self._staging)

    def _commit_path(self, commit_id: str) -> Path:
        return self._commits / hex_part(digest(commit_id.encode()))


def _numbered(number: int) -> str:
    return f"{number:0{_DIGITS}d}"


def _numbers_in(directory: Path) -> list[int]:
    names = files.names_in(directory)
    return [int(name) for name in names if len(name) == _DIGITS and name.isdecimal()]
