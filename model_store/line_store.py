"""A store whose writers are kept apart by one lock per model.

Decides the order of check and write under the lock, for every store that has one. A `Line` is one
model's records in whatever holds them; reads need no lock, because a record appears whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import replace
from uuid import uuid4

from chassis.clock import wall_time_ms
from chassis.names import checked_name
from model_store import rules
from model_store.records import Channel, Manifest
from model_store.store import Store


class Line(ABC):
    """One model's versions, channels and epochs; the writing half only under the lock."""

    @abstractmethod
    def epoch(self) -> int: ...

    @abstractmethod
    def versions(self) -> list[int]:
        """Ascending."""

    @abstractmethod
    def manifest(self, version: int) -> Manifest | None: ...

    @abstractmethod
    def committed(self, commit_id: str) -> Manifest | None:
        """The version that this commit made."""

    @abstractmethod
    def channel(self, name: str) -> Channel | None: ...

    @abstractmethod
    def channel_names(self) -> list[str]: ...

    @abstractmethod
    def revision(self) -> int: ...

    @abstractmethod
    def add_epoch(self, epoch: int, owner: str) -> bool:
        """Hands out `epoch`; False if it was taken despite the lock."""

    @abstractmethod
    def add_manifest(self, manifest: Manifest) -> bool:
        """Makes the version exist; False if it was taken despite the lock."""

    @abstractmethod
    def put_channel(self, channel: Channel) -> None: ...


class LineStore(Store):
    """The contract's records half, upon lines; blobs and waiting are left to the store."""

    @abstractmethod
    def _line(self, model: str) -> Line:
        """For reading."""

    @abstractmethod
    def _locked(self, model: str) -> AbstractContextManager[Line]:
        """For reading and writing, alone among all writers of the model."""

    def acquire_epoch(self, model: str, owner: str) -> int:
        rules.check_text(owner, what="owner")
        with self._locked(checked_name(model, what="model")) as line:
            epoch = line.epoch() + 1
            while not line.add_epoch(epoch, owner):
                epoch += 1
            return epoch

    def epoch(self, model: str) -> int:
        return self._line(checked_name(model, what="model")).epoch()

    def create_version(self, manifest: Manifest) -> Manifest:
        rules.check_manifest(manifest)
        manifest = replace(manifest, commit_id=manifest.commit_id or uuid4().hex)
        with self._locked(manifest.model) as line:
            made = line.committed(manifest.commit_id)
            if made is not None:
                return made
            rules.check_epoch(manifest.epoch, line.epoch(), model=manifest.model)
            rules.check_blobs(self.missing_blobs(manifest.digests()))
            return self._append(line, manifest)

    def _append(self, line: Line, manifest: Manifest) -> Manifest:
        # The lock makes the first number free; where a shared volume ignores locks, the exclusive
        # create behind add_manifest still gives each version to one writer.
        while True:
            newest = (line.versions() or [0])[-1]
            made = rules.assigned(manifest, newest + 1, wall_time_ms())
            if line.add_manifest(made):
                return made

    def manifest(self, model: str, version: int) -> Manifest:
        line = self._line(checked_name(model, what="model"))
        found = line.manifest(version)
        if found is None:
            raise rules.version_not_found(model, version, line.versions())
        return found

    def versions(self, model: str) -> list[int]:
        return self._line(checked_name(model, what="model")).versions()

    def channel(self, model: str, name: str) -> Channel | None:
        line = self._line(checked_name(model, what="model"))
        return line.channel(checked_name(name, what="channel"))

    def channels(self, model: str) -> list[Channel]:
        line = self._line(checked_name(model, what="model"))
        found = (line.channel(name) for name in sorted(line.channel_names()))
        return [channel for channel in found if channel is not None]

    def move_channel(
        self,
        model: str,
        name: str,
        version: int,
        *,
        expected_revision: int,
        epoch: int = 0,
        held: bool = False,
        reason: str,
    ) -> Channel:
        move = rules.Move(
            model, name, version, expected_revision, epoch, held, reason, wall_time_ms()
        )
        rules.check_move(move)
        with self._locked(model) as line:
            existing = line.versions()
            if version not in existing:
                raise rules.version_not_found(model, version, existing)
            channel = rules.moved(line.channel(name), move, line.epoch())
            line.put_channel(channel)
            return channel

    def revision(self, model: str) -> int:
        return self._line(checked_name(model, what="model")).revision()
