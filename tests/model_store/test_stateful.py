"""Any sequence of calls, on any store, does what it would do to a dict."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

import hypothesis.strategies as st
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from chassis.clock import wall_time_ms
from chassis.errors import HeadraceError
from model_store import Store, open_store
from model_store.digests import digest
from tests.model_store.samples import PROBE, PROGRAM, unstored, weights
from tests.s3_server import S3Server

MODELS = st.sampled_from(["a", "b"])
CHANNELS = st.sampled_from(["stable", "canary"])
STEPS = st.integers(0, 3)
HOLDERS = st.sampled_from(["one", "other:1"])
# An epoch as a distance from the newest: the newest itself, an older one, one never handed out.
EPOCHS = st.sampled_from(["none", "newest", "older", "unknown"])


@dataclass
class Pointer:
    """What a dict knows of a channel."""

    version: int
    epoch: int
    held: bool
    past: list[int]


@dataclass
class Known:
    """What a dict knows of a model."""

    epoch: int = 0
    steps: list[int] = field(default_factory=list)
    removed: set[int] = field(default_factory=set)
    leases: set[tuple[int, str]] = field(default_factory=set)
    commits: dict[str, int] = field(default_factory=dict)
    channels: dict[str, Pointer] = field(default_factory=dict)
    changes: int = 0

    def epoch_as(self, choice: str) -> int:
        return {
            "none": 0,
            "newest": self.epoch,
            "older": max(0, self.epoch - 1),
            "unknown": self.epoch + 1,
        }[choice]

    def versions(self) -> list[int]:
        return [v for v in range(1, len(self.steps) + 1) if v not in self.removed]

    def needed(self) -> set[int]:
        needed = {version for version, _ in self.leases}
        for pointer in self.channels.values():
            past = pointer.past[-32:]
            earlier = [v for v in past if v < pointer.version and v not in self.removed]
            needed |= {pointer.version, *earlier[-1:]}
        return needed

    def fence(self, epoch: int) -> str:
        if 0 < epoch < self.epoch:
            return "STALE_EPOCH"
        return "UNKNOWN_EPOCH" if epoch > self.epoch else ""


class Machine(RuleBasedStateMachine):
    """`open_empty` gives an empty store and a way to open the same one again."""

    open_empty: Callable[[], Callable[[], Store]]

    def __init__(self) -> None:
        super().__init__()
        self.open_again = type(self).open_empty()
        self.store = self.open_again()
        self.blobs: set[str] = set()
        self.known = {"a": Known(), "b": Known()}
        self.revisions = {"a": 0, "b": 0}

    def teardown(self) -> None:
        self.store.close()

    def outcome(self, call: Callable[[], object]) -> object:
        """What the call returns, or the reason of the error that it raises."""
        try:
            return call()
        except HeadraceError as error:
            return error.reason

    @rule(step=STEPS)
    def put_blobs(self, step: int) -> None:
        for content in (PROGRAM, PROBE, weights(step)):
            self.blobs.add(self.store.put_blob(content))

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.open_again()

    @rule(model=MODELS)
    def acquire_epoch(self, model: str) -> None:
        self.known[model].epoch += 1
        assert self.store.acquire_epoch(model, "owner") == self.known[model].epoch

    @rule(model=MODELS, step=STEPS, choice=EPOCHS, commit_id=st.sampled_from(["", "x", "y"]))
    def create_version(self, model: str, step: int, choice: str, commit_id: str) -> None:
        known = self.known[model]
        epoch = known.epoch_as(choice)
        manifest = unstored(step, model=model, epoch=epoch, commit_id=commit_id)
        got = self.outcome(lambda: self.store.create_version(manifest).version)
        if known.commits.get(commit_id) in known.versions():
            assert got == known.commits[commit_id]
        elif known.fence(epoch):
            assert got == known.fence(epoch)
        elif not set(manifest.digests()) <= self.blobs:
            assert got == "MISSING_BLOBS"
        else:
            known.steps.append(step)
            known.changes += 1
            assert got == len(known.steps)
            if commit_id:
                known.commits[commit_id] = len(known.steps)

    @rule(
        model=MODELS,
        name=CHANNELS,
        version=st.integers(0, 4),
        off=st.sampled_from([0, 0, 0, 1, -1]),
        choice=EPOCHS,
        held=st.booleans(),
    )
    def move_channel(
        self, model: str, name: str, version: int, off: int, choice: str, held: bool
    ) -> None:
        known = self.known[model]
        pointer = known.channels.get(name, Pointer(0, 0, False, []))
        epoch, revision = known.epoch_as(choice), len(pointer.past)
        expected = max(0, revision + off)
        got = self.outcome(
            lambda: (
                self.store.move_channel(
                    model,
                    name,
                    version,
                    expected_revision=expected,
                    epoch=epoch,
                    held=held,
                    reason="rule",
                ).revision
            )
        )
        if version not in known.versions():
            assert got == "VERSION_NOT_FOUND"
        elif known.fence(epoch):
            assert got == known.fence(epoch)
        elif expected != revision:
            assert got == "CHANNEL_MOVED"
        else:
            assert got == revision + 1
            past = [*pointer.past, version]
            known.channels[name] = Pointer(version, epoch or pointer.epoch, held, past)
            known.changes += 1

    @rule(model=MODELS, version=st.integers(0, 4), holder=HOLDERS)
    def lease(self, model: str, version: int, holder: str) -> None:
        known = self.known[model]
        got = self.outcome(lambda: self.store.lease(model, version, holder, 3600).version)
        if version in known.versions():
            known.leases.add((version, holder))
            assert got == version
        else:
            assert got == "VERSION_NOT_FOUND"

    @rule(model=MODELS, version=st.integers(0, 4), holder=HOLDERS)
    def release(self, model: str, version: int, holder: str) -> None:
        self.store.release(model, version, holder)
        self.known[model].leases.discard((version, holder))

    @rule(model=MODELS, versions=st.sets(st.integers(0, 5)))
    def remove_versions(self, model: str, versions: set[int]) -> None:
        known = self.known[model]
        asked = versions & set(known.versions())
        needed = known.needed()
        removal = self.store.remove_versions(model, sorted(versions))
        assert removal.removed == tuple(sorted(asked - needed))
        assert set(removal.kept) == asked & needed
        known.removed |= asked - needed

    @rule(step=STEPS, unused=st.booleans())
    def delete_blob(self, step: int, unused: bool) -> None:
        name = digest(weights(step))
        hour_ms = 3_600_000 if unused else -3_600_000
        named = {
            digest(weights(known.steps[version - 1]))
            for known in self.known.values()
            for version in known.versions()
        }
        if name in named:
            # What a collector leaves alone.
            return
        deleted = self.store.delete_blob(name, unused_since_ms=wall_time_ms() + hour_ms)
        assert deleted == (unused and name in self.blobs)
        if deleted:
            self.blobs.discard(name)

    @invariant()
    def blobs_agree(self) -> None:
        contents = {digest(content): content for content in (PROGRAM, PROBE, weights(0))}
        assert self.store.missing_blobs(list(contents)) == set(contents) - self.blobs
        for name in self.blobs & set(contents):
            assert self.store.read_blob(name) == contents[name]
        assert {blob.digest for blob in self.store.blobs()} == self.blobs

    @invariant()
    def versions_agree(self) -> None:
        assert self.store.models() == [model for model in "ab" if self.known[model].versions()]
        for model, known in self.known.items():
            assert self.store.epoch(model) == known.epoch
            assert self.store.versions(model) == known.versions()
            for version in known.versions():
                assert self.store.manifest(model, version).step == known.steps[version - 1]
            held = [(lease.version, lease.holder) for lease in self.store.leases(model)]
            assert held == sorted(known.leases)

    @invariant()
    def channels_agree(self) -> None:
        for model, known in self.known.items():
            found = {channel.name: channel for channel in self.store.channels(model)}
            assert found.keys() == known.channels.keys()
            for name, channel in found.items():
                past = [moved.version for moved in channel.history]
                assert Pointer(channel.version, channel.epoch, channel.held, past) == replace(
                    known.channels[name], past=known.channels[name].past[-32:]
                )

    @invariant()
    def revisions_grow_with_changes(self) -> None:
        for model, known in self.known.items():
            assert self.store.revision(model) == known.changes
            assert self.store.wait_for_change(model, known.changes + 1, 60.0) == known.changes


def check(open_empty: Callable[[], Callable[[], Store]], examples: int) -> None:
    class ThisStore(Machine):
        pass

    ThisStore.open_empty = staticmethod(open_empty)
    run_state_machine_as_test(
        ThisStore,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_memory_is_a_dict() -> None:
    def open_empty() -> Callable[[], Store]:
        url = f"memory://{uuid4().hex}"
        return lambda: open_store(url)

    check(open_empty, examples=60)


def test_files_are_a_dict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = itertools.count()
    # What survives a power cut is no part of this; thousands of them would take a minute.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    def open_empty() -> Callable[[], Store]:
        url = (tmp_path / str(next(fresh))).as_uri()
        return lambda: open_store(url)

    check(open_empty, examples=20)


def test_redis_is_a_dict(empty_redis_url: str) -> None:
    with redis.Redis.from_url(empty_redis_url) as client:

        def open_empty() -> Callable[[], Store]:
            client.flushdb()
            return lambda: open_store(empty_redis_url)

        check(open_empty, examples=20)


def test_s3_is_a_dict(s3_server: S3Server) -> None:
    def open_empty() -> Callable[[], Store]:
        url = s3_server.url(uuid4().hex)
        return lambda: open_store(url)

    check(open_empty, examples=8)
