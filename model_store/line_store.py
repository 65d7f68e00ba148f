"""A store that keeps each model's records as one line, which one writer at a time changes.

Decides the order of check and write in a change, for every store that can keep writers apart: by a
lock, or by letting only one of those who began with the same line write it. A `Line` is one
model's records in whatever holds them; readers need neither, because a record appears whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar
from uuid import uuid4

from chassis.clock import wall_time_ms
from chassis.errors import NotFound
from chassis.names import checked_name
from model_store import rules
from model_store.records import Channel, Lease, Manifest, Removal
from model_store.rollout import Rollout
from model_store.store import Store

_R = TypeVar("_R")


class Line(ABC):
    """One model's versions, channels and epochs; the writing half only inside a change."""

    @abstractmethod
    def epoch(self) -> int: ...

    @abstractmethod
    def newest(self) -> int:
        """The newest version there ever was, removed or not; 0 if none."""

    @abstractmethod
    def versions(self) -> list[int]:
        """Ascending, without the removed ones."""

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

    @abstractmethod
    def leases(self) -> list[Lease]:
        """In any order, expired ones too. Raises DataLoss (LEASE_DAMAGED)."""

    @abstractmethod
    def put_lease(self, lease: Lease) -> None:
        """In the place of the one that its holder has of the version."""

    @abstractmethod
    def drop_lease(self, version: int, holder: str) -> None: ...

    @abstractmethod
    def remove(self, versions: Sequence[int]) -> None:
        """Makes them exist no more, each in one step."""

    @abstractmethod
    def sweep(self) -> None:
        """Deletes what removed versions left behind; outside of a change, and may be repeated."""


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
        rules.check_blobs(self._claim_blobs(manifest.digests()))
        return self._append(line, manifest)

    @abstractmethod
    def _claim_blobs(self, digests: Sequence[str]) -> set[str]:
        """Those missing; the others are used now, as `delete_blob` sees it, in one step."""

    def _append(self, line: Line, manifest: Manifest) -> Manifest:
        # A lock makes the first number free; where a shared volume ignores locks, the exclusive
        # create behind add_manifest still gives each version to one writer.
        while True:
            made = rules.assigned(manifest, line.newest() + 1, wall_time_ms())
            if line.add_manifest(made):
                return made

    def manifest(self, model: str, version: int) -> Manifest:
        line = self._line(checked_name(model, what="model"))
        found = line.manifest(version)
        if found is None:
            raise _not_found(line, model, version)
        return found

    def versions(self, model: str) -> list[int]:
        return self._line(checked_name(model, what="model")).versions()

    def channel(self, model: str, name: str) -> Channel | None:
        line = self._line(checked_name(model, what="model"))
        return line.channel(checked_name(name, what="channel"))

    def channels(self, model: str) -> list[Channel]:
        return _channels(self._line(checked_name(model, what="model")))

    def move_channel(
        self,
        model: str,
        name: str,
        version: int,
        *,
        expected_revision: int,
        epoch: int = 0,
        held: bool = False,
        rollout: Rollout | None = None,
        reason: str,
    ) -> Channel:
        move = rules.Move(
            model, name, version, expected_revision, epoch, held, reason, wall_time_ms(), rollout
        )
        rules.check_move(move)
        return self._change(model, lambda line: _move(line, move))

    def lease(self, model: str, version: int, holder: str, ttl_s: float) -> Lease:
        rules.check_lease(holder, ttl_s)

        def grant(line: Line) -> Lease:
            if version not in line.versions():
                raise _not_found(line, model, version)
            now_ms = wall_time_ms()
            _drop_expired(line, now_ms)
            lease = Lease(version, holder, now_ms + round(ttl_s * 1000))
            line.put_lease(lease)
            return lease

        return self._change(checked_name(model, what="model"), grant)

    def release(self, model: str, version: int, holder: str) -> None:
        self._change(
            checked_name(model, what="model"), lambda line: line.drop_lease(version, holder)
        )

    def leases(self, model: str) -> list[Lease]:
        line = self._line(checked_name(model, what="model"))
        return rules.living(line.leases(), wall_time_ms())

    def remove_versions(self, model: str, versions: Sequence[int]) -> Removal:
        removal = self._change(
            checked_name(model, what="model"), lambda line: _remove(line, set(versions))
        )
        self._line(model).sweep()
        return removal

    def revision(self, model: str) -> int:
        return self._line(checked_name(model, what="model")).revision()


def _not_found(line: Line, model: str, version: int) -> NotFound:
    return rules.version_not_found(model, version, line.versions(), line.newest())


def _channels(line: Line) -> list[Channel]:
    found = (line.channel(name) for name in sorted(line.channel_names()))
    return [channel for channel in found if channel is not None]


def _drop_expired(line: Line, now_ms: int) -> None:
    for lease in line.leases():
        if lease.expire_time_ms <= now_ms:
            line.drop_lease(lease.version, lease.holder)


def _remove(line: Line, versions: set[int]) -> Removal:
    existing = set(line.versions())
    if not versions & existing:
        # Nothing to decide: damage among the channels is no reason against sweeping.
        line.remove([])
        return Removal((), {})
    leases = rules.living(line.leases(), wall_time_ms())
    needed = rules.needed_versions(_channels(line), leases, existing)
    asked = versions & existing
    going = sorted(asked - needed.keys())
    line.remove(going)
    return Removal(tuple(going), {version: needed[version] for version in sorted(asked - {*going})})


def _move(line: Line, move: rules.Move) -> Channel:
    if move.version not in line.versions():
        raise _not_found(line, move.model, move.version)
    channel = rules.moved(line.channel(move.name), move, line.epoch())
    line.put_channel(channel)
    return channel
