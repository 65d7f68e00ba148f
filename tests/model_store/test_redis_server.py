"""Redis servers that evict, fill up, hang, restart, refuse or are not there."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest
import redis

from chassis import failpoints
from chassis.errors import (
    DataLoss,
    FailedPrecondition,
    ResourceExhausted,
    Unavailable,
)
from model_store import Store, open_store, redis_bulk, redis_connection
from model_store.publication import publish
from tests.model_store.collecting import collected
from tests.model_store.samples import MODEL, assert_readable, assert_whole, made, stored


@pytest.fixture
def store(mistreated_url: str) -> Iterator[Store]:
    with open_store(mistreated_url) as store:
        yield store


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


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


def test_a_server_that_is_told_to_evict_while_it_runs_is_refused(
    store: Store, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_connection, "POLICY_FOR_S", 0.0)
    made(store, 1)
    admin.config_set("maxmemory-policy", "allkeys-lru")
    for call in (
        lambda: store.put_blob(b"x"),
        lambda: store.channel(MODEL, "stable"),
        lambda: store.acquire_epoch(MODEL, "trainer"),
        lambda: store.wait_for_change(MODEL, 1, 60.0),
    ):
        with pytest.raises(FailedPrecondition) as raised:
            call()
        assert raised.value.reason == "STORE_EVICTS"
    admin.config_set("maxmemory-policy", "noeviction")
    assert made(store, 2).version == 2


def test_a_full_server_takes_no_part_of_a_version(
    store: Store, mistreated_url: str, admin: redis.Redis
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
    with open_store(mistreated_url) as reader:
        assert (assert_whole(reader), reader.revision(MODEL)) == ([1], 2)
    admin.config_set("maxmemory", 0)
    assert publish(store, manifest).channel.version == 2


def test_a_full_server_is_freed_by_collecting(
    store: Store, mistreated_url: str, admin: redis.Redis
) -> None:
    for step in range(6):
        publish(store, stored(store, step))
    orphan = store.put_blob(b"y" * 100_000)
    admin.config_set("maxmemory", "1mb")
    with pytest.raises(ResourceExhausted):
        store.lease(MODEL, 1, "reader", 60)
    with open_store(mistreated_url) as collector:
        done = collected(collector, keep=1)
    assert done.models[0].removed == (1, 2, 3, 4)
    assert (done.deleted_blobs, store.missing_blobs([orphan])) == (5, {orphan})
    admin.config_set("maxmemory", 0)
    assert publish(store, stored(store, 6)).manifest.version == 7
    assert assert_readable(store) == [5, 6, 7]


def test_a_read_only_server_is_unavailable_for_writing(
    store: Store, mistreated_url: str, admin: redis.Redis
) -> None:
    made(store, 1)
    admin.replicaof("127.0.0.1", "1")
    with pytest.raises(Unavailable, match="read-only"):
        store.acquire_epoch(MODEL, "trainer")
    with open_store(mistreated_url) as reader:
        assert assert_whole(reader) == [1]
    admin.replicaof("NO", "ONE")
    assert store.acquire_epoch(MODEL, "trainer") == 1


def test_a_hung_server_is_unavailable_and_then_goes_on(
    mistreated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_connection, "SOCKET_TIMEOUT_S", 0.1)
    monkeypatch.setattr(redis_connection, "MAX_BLOCK_S", 0.05)
    pid = redis.Redis.from_url(mistreated_url).info("server")["process_id"]
    with open_store(mistreated_url) as store:
        made(store, 1)
        name = store.put_blob(b"weights")
        target = memoryview(bytearray(7))
        store.read_blob_into(name, target)
        os.kill(pid, signal.SIGSTOP)
        try:
            for call in (
                lambda: store.versions(MODEL),
                lambda: store.acquire_epoch(MODEL, "trainer"),
                lambda: store.read_blob_into(name, target),
                lambda: store.wait_for_change(MODEL, 1, 60.0),
            ):
                with pytest.raises(Unavailable) as raised:
                    call()
                assert raised.value.reason == "STORE_UNAVAILABLE"
        finally:
            os.kill(pid, signal.SIGCONT)
        store.read_blob_into(name, target)
        assert target == b"weights"
        assert assert_whole(store) == [1]


def test_a_bulk_read_ends_where_the_server_hangs_or_dies(
    mistreated_url: str, admin: redis.Redis
) -> None:
    client = redis.Redis.from_url(mistreated_url, socket_timeout=0.1)
    client.set("k", b"value")
    target = memoryview(bytearray(5))
    redis_bulk.fill(client, ["k"], [target])
    assert target == b"value"
    pid = admin.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(redis.exceptions.TimeoutError):
            redis_bulk.fill(client, ["k"], [target])
    finally:
        os.kill(pid, signal.SIGCONT)
    redis_bulk.fill(client, ["k"], [target])
    client.close()


def test_a_server_that_cannot_answer_as_a_blob_is_read_has_lost_nothing(
    store: Store, admin: redis.Redis
) -> None:
    name = store.put_blob(b"weights")
    target = memoryview(bytearray(7))
    stale = admin.config_get("replica-serve-stale-data")["replica-serve-stale-data"]

    def lose_the_primary(_size: int) -> None:
        # Reads are answered with -MASTERDOWN then; they were admitted before.
        admin.config_set("replica-serve-stale-data", "no")
        admin.replicaof("127.0.0.1", "1")

    try:
        with pytest.raises(Unavailable) as raised:
            store.read_blob_into(name, target, lose_the_primary)
        assert raised.value.reason == "STORE_UNAVAILABLE"
    finally:
        admin.replicaof("NO", "ONE")
        admin.config_set("replica-serve-stale-data", stale)
    store.read_blob_into(name, target)
    assert target == b"weights"


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"redis://user:secret@127.0.0.1:{probe.getsockname()[1]}/0"
        with open_store(url) as store, pytest.raises(Unavailable) as raised:
            store.models()
    assert "secret" not in str(raised.value) + repr(store) + store.url
    assert "secret" not in str(raised.value.__cause__)


def test_a_wrong_password_is_refused_and_not_shown(mistreated_url: str, admin: redis.Redis) -> None:
    admin.config_set("requirepass", "right")
    try:
        address = mistreated_url.removeprefix("redis://")
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
    store: Store, mistreated_url: str, admin: redis.Redis
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
    with open_store(mistreated_url) as begun_anew:
        assert made(begun_anew, 5).version == 1
        with pytest.raises(DataLoss):
            store.create_version(manifest)
        assert begun_anew.manifest(MODEL, 1).step == 5


def test_a_restarted_server_that_kept_its_data_is_the_same_store(
    store: Store, mistreated_url: str, admin: redis.Redis
) -> None:
    made(store, 1)
    # What a restart does to a client: every connection is gone and no script is known.
    admin.client_kill_filter(_type="normal", skipme=True)
    admin.script_flush()
    assert made(store, 2).version == 2
    assert assert_whole(store) == [1, 2]
