"""A store that keeps each model's records as one line, which one writer at a time changes.

Decides the order of check and write in a change, for every store that can keep writers apart: by a
lock, or by letting only one of those who began with the same line write it. A `Line` is one
model's records in whatever holds them; readers need neither, because a record appears whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar
from uuid import uuid4

from chassis.clock import wall_time_ms
from chassis.names import checked_name
from model_store import rules
from model_store.records import Channel, Manifest
from model_store.store import Store

_R = TypeVar("_R")


class Line(ABC):
    """One model's versions, channels and epochs; the writing half only inside a change."""

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
        """Hands out `epoch`; False if it was taken meanwhile."""

    @abstractmethod
    def add_manifest(self, manifest: Manifest) -> bool:
        """Makes the version exist; False if it was taken meanwhile."""

    @abstractmethod
    def put_channel(self, channel: Channel) -> None: ...


class LineStore(Store):
    """The contract's records half, upon lines; blobs and waiting are left to the store."""

    @abstractmethod
    def _line(self, model: str) -> Line:
        """For reading."""

    @abstractmethod
    def _change(self, model: str, change: Callable[[Line], _R]) -> _R:
        """What `change` returns, run on the model's line as if alone among its writers.

        It is run again, on what the line has become, where another writer came between.
        """

    def acquire_epoch(self, model: str, owner: str) -> int:
        rules.check_text(owner, what="owner")

        def add(line: Line) -> int:
            epoch = line.epoch() + 1
            while not line.add_epoch(epoch, owner):
                epoch += 1
            return epoch

        return self._change(checked_name(model, what="model"), add)

    def epoch(self, model: str) -> int:
        return self._line(checked_name(model, what="model")).epoch()

    def create_version(self, manifest: Manifest) -> Manifest:
        rules.check_manifest(manifest)
        manifest = replace(manifest, commit_id=manifest.commit_id or uuid4().hex)
        return self._change(manifest.model, lambda line: self._create(line, manifest))

    def _create(self, line: Line, manifest: Manifest) -> Manifest:
        made = line.committed(manifest.commit_id)
        if made is not None:
            return made
        rules.check_epoch(manifest.epoch, line.epoch(), model=manifest.model)
        rules.check_blobs(self.missing_blobs(manifest.digests()))
        return self._append(line, manifest)

    def _append(self, line: Line, manifest: Manifest) -> Manifest:
        # A lock makes the first number free; where a shared volume ignores locks, the exclusive
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
        return self._change(model, lambda line: _move(line, move))

    def revision(self, model: str) -> int:
        return self._line(checked_name(model, what="model")).revision()


def _move(line: Line, move: rules.Move) -> Channel:
    existing = line.versions()
    if move.version not in existing:
        raise rules.version_not_found(move.model, move.version, existing)
    channel = rules.moved(line.channel(move.name), move, line.epoch())
    line.put_channel(channel)
    return channel
