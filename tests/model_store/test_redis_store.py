"""What only Redis has: blobs in chunks, answers and notifications that are lost."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from chassis import failpoints
from chassis.errors import (
    DataLoss,
    FailedPrecondition,
    Internal,
    NotFound,
)
from model_store import Store, open_store
from model_store.digests import digest, hex_part
from model_store.publication import publish
from model_store.redis_connection import RedisConnection
from model_store.redis_scripts import (
    COMMIT_BLOB,
    CREATE_VERSION,
    MOVE_CHANNEL,
    blob_key,
    model_key,
)
from model_store.redis_store import RedisStore
from tests.model_store.samples import MODEL, assert_whole, made, stored, weights

CHUNK = 4 * 1024 * 1024


@pytest.fixture
def store(mistreated_url: str) -> Iterator[Store]:
    with open_store(mistreated_url) as store:
        yield store


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


# Blobs in chunks


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 7])
def test_blobs_of_every_number_of_chunks_come_back(store: Store, size: int) -> None:
    content = os.urandom(size)
    assert store.read_blob(store.put_blob(content)) == content


def test_a_partial_blob_is_not_there(store: Store, admin: redis.Redis) -> None:
    content = b"p" * (2 * CHUNK + 1)
    failpoints.arm("store.blob.before_commit=error")
    with pytest.raises(Internal):
        store.put_blob(content)
    name = digest(content)
    assert store.missing_blobs([name]) == {name}
    with pytest.raises(NotFound):
        store.read_blob(name)
    # What was written expires, unless somebody completes it.
    chunks = admin.keys(f"{blob_key(hex_part(name))}:*")
    assert len(chunks) == 3
    assert all(admin.ttl(chunk) > 0 for chunk in chunks)
    failpoints.arm("")
    assert store.put_blob(content) == name
    assert all(admin.ttl(chunk) == -1 for chunk in chunks)
    assert store.read_blob(name) == content


def test_a_blob_that_lost_a_chunk_is_detected_and_healed(store: Store, admin: redis.Redis) -> None:
    content = b"q" * (2 * CHUNK + 1)
    name = store.put_blob(content)
    admin.delete(admin.keys(f"{blob_key(hex_part(name))}:*")[0])
    with pytest.raises(DataLoss) as raised:
        store.read_blob(name)
    assert raised.value.reason == "DIGEST_MISMATCH"
    assert store.put_blob(content) == name
    assert store.read_blob(name) == content


@pytest.mark.parametrize("end", ["", "no", "longer"])
def test_a_chunk_of_another_length_is_detected_where_it_is_read_to(
    store: Store, admin: redis.Redis, end: str
) -> None:
    content = os.urandom(2 * CHUNK + 5)
    name = store.put_blob(content)
    target = bytearray(len(content))
    store.read_blob_into(name, memoryview(target))
    assert target == content
    last = max(admin.keys(f"{blob_key(hex_part(name))}:*"))
    admin.set(last, end)
    for _ in range(3):
        with pytest.raises(DataLoss) as raised:
            store.read_blob_into(name, memoryview(target))
        assert raised.value.reason == "DIGEST_MISMATCH"
    # Whatever was on its way then, the connection goes on with none of it.
    assert store.put_blob(b"other") == digest(b"other")
    assert store.read_blob(digest(b"other")) == b"other"


def test_chunks_that_vanish_before_the_commit_are_written_again(
    store: Store, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, vanished = RedisConnection.run, []

    def vanishing(self: RedisConnection, script: str, keys: Any, arguments: Any) -> Any:
        if not vanished and script == COMMIT_BLOB:
            vanished.append(admin.delete(*keys))
        return run(self, script, keys, arguments)

    monkeypatch.setattr(RedisConnection, "run", vanishing)
    assert store.read_blob(store.put_blob(b"r" * 100)) == b"r" * 100
    assert vanished == [1]


def test_every_key_lies_in_one_slot_under_our_prefix(store: Store, admin: redis.Redis) -> None:
    store.acquire_epoch(MODEL, "trainer")
    publish(store, stored(store, 1))
    keys = admin.keys("*")
    assert len(keys) > 8
    assert all(key.startswith(b"headrace:{store}:") for key in keys)


# Answers that are lost, notifications that are lost


def losing_one_answer(store: Store, script: str) -> None:
    """The next run of the script takes effect, and then the connection breaks."""
    assert isinstance(store, RedisStore)
    scripts = store._connection._scripts
    real, runs = scripts[script], itertools.count()

    def losing(keys: list[str], args: list[Any]) -> Any:
        answer = real(keys=keys, args=args)
        if next(runs) == 0:
            raise redis.ConnectionError("broken pipe")
        return answer

    scripts[script] = losing


def test_a_version_whose_answer_was_lost_is_made_once(store: Store) -> None:
    made(store, 1)
    losing_one_answer(store, CREATE_VERSION)
    assert made(store, 2).version == 2
    assert assert_whole(store) == [1, 2]
    assert store.revision(MODEL) == 2


def test_a_move_whose_answer_was_lost_is_made_once(store: Store) -> None:
    publish(store, stored(store, 1))
    manifest = made(store, 2)
    losing_one_answer(store, MOVE_CHANNEL)
    channel = store.move_channel(
        MODEL, "stable", manifest.version, expected_revision=1, reason="set"
    )
    assert (channel.version, channel.revision) == (2, 2)
    assert store.channel(MODEL, "stable") == channel


def test_a_reader_needs_no_notification(
    store: Store, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store, 1)
    seen, silence = store.revision(MODEL), threading.Event()

    def nothing_comes(self: RedisConnection, stream: str, after: str, timeout_s: float) -> bool:
        return silence.wait(0.005)

    monkeypatch.setattr(RedisConnection, "wait_for_entry", nothing_comes)
    woken: list[int] = []
    waiting = threading.Thread(target=lambda: woken.append(store.wait_for_change(MODEL, seen, 60)))
    waiting.start()
    made(store, 2)
    waiting.join(30)
    assert woken == [seen + 1]


def test_a_change_between_reading_and_waiting_is_not_missed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store, 1)
    wait, answers = RedisConnection.wait_for_entry, []

    def late(self: RedisConnection, stream: str, after: str, timeout_s: float) -> bool:
        made(store, 2)
        answers.append(wait(self, stream, after, timeout_s))
        return answers[-1]

    monkeypatch.setattr(RedisConnection, "wait_for_entry", late)
    assert store.wait_for_change(MODEL, 1, 60.0) == 2
    assert answers == [True]


def test_the_stream_of_changes_stays_short(store: Store, admin: redis.Redis) -> None:
    made(store, 1)
    for revision in range(40):
        store.move_channel(MODEL, "stable", 1, expected_revision=revision, reason="set")
    assert admin.xlen(model_key(MODEL, "changes")) == 16


def test_a_version_is_never_made_with_a_blob_that_is_gone(store: Store, admin: redis.Redis) -> None:
    manifest = stored(store, 3)
    admin.delete(blob_key(hex_part(digest(weights(3)))))
    with pytest.raises(FailedPrecondition, match=digest(weights(3))) as raised:
        store.create_version(manifest)
    assert raised.value.reason == "MISSING_BLOBS"
    assert (store.versions(MODEL), store.models(), store.revision(MODEL)) == ([], [], 0)
