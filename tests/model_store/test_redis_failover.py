"""Redis replicas that confirm commits, lag, and take over: real servers, killed with SIGKILL."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from chassis.errors import InvalidArgument, Unavailable
from model_store import Store, open_store
from model_store.publication import publish
from model_store.records import Manifest
from model_store.redis_location import RedisLocation
from model_store.redis_scripts import CONFIRMED
from tests.model_store.samples import MODEL, assert_whole, made, stored
from tests.redis_server import HOST, RedisServer

WAITING = "wait_replicas=1&wait_ms=200"


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "primary") as server:
        yield server


@pytest.fixture
def replica(tmp_path: Path, primary: RedisServer) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "replica") as server:
        server.replicate(primary)
        yield server


@pytest.fixture
def store(primary: RedisServer, replica: RedisServer) -> Iterator[Store]:
    with open_store(f"{primary.url}?{WAITING}") as store:
        yield store


def failed_over(primary: RedisServer, replica: RedisServer) -> str:
    """kill -9 of the primary; the URL of the replica, promoted."""
    primary.kill()
    replica.promote()
    return replica.url


def not_replicated(call: object) -> str:
    with pytest.raises(Unavailable) as raised:
        call()  # type: ignore[operator]
    assert raised.value.reason == "STORE_NOT_REPLICATED"
    assert "0 of 1 replicas" in raised.value.message
    return raised.value.message


def test_what_a_replica_confirmed_survives_the_primary(
    store: Store, primary: RedisServer, replica: RedisServer
) -> None:
    epoch = store.acquire_epoch(MODEL, "trainer")
    for step in range(1, 30):
        publish(store, stored(store, step, epoch=epoch))
    with open_store(failed_over(primary, replica)) as survivor:
        assert assert_whole(survivor) == list(range(1, 30))
        channel = survivor.channel(MODEL, "stable")
        assert channel is not None and (channel.version, channel.epoch) == (29, epoch)
        assert survivor.epoch(MODEL) == epoch


def test_what_is_not_confirmed_is_there_and_its_repetition_waits_again(
    store: Store, primary: RedisServer, replica: RedisServer
) -> None:
    made(store, 1)
    manifest = stored(store, 2, commit_id="second")
    replica.detach()
    told = not_replicated(lambda: store.create_version(manifest))
    assert "a version of model 'clicks' is made" in told and "commit_id" in told
    assert store.versions(MODEL) == [1, 2]
    # A repetition finds the version and writes nothing: still nobody else has it.
    not_replicated(lambda: store.create_version(manifest))
    with open_store(f"{primary.url}?{WAITING}") as other:
        not_replicated(lambda: other.create_version(manifest))
    replica.replicate(primary)
    assert store.create_version(manifest).version == 2
    with open_store(failed_over(primary, replica)) as survivor:
        assert assert_whole(survivor) == [1, 2]


def test_a_hung_replica_confirms_nothing_to_whoever_asks_anew(
    store: Store, primary: RedisServer, replica: RedisServer
) -> None:
    manifest = stored(store, 1, commit_id="first")
    replica.signal(signal.SIGSTOP)
    not_replicated(lambda: store.create_version(manifest))
    # A connection that has written nothing: its WAIT alone would count the replica.
    with open_store(f"{primary.url}?{WAITING}") as other:
        not_replicated(lambda: other.create_version(manifest))
    replica.signal(signal.SIGCONT)
    replica.wait_replicated(primary)
    assert store.create_version(manifest).version == 1


def test_a_move_and_an_epoch_that_are_not_confirmed_say_so(
    store: Store, primary: RedisServer, replica: RedisServer
) -> None:
    version = made(store, 1).version
    replica.detach()
    told = not_replicated(
        lambda: store.move_channel(MODEL, "stable", version, expected_revision=0, reason="set")
    )
    assert "channel 'stable' of model 'clicks' points to version 1" in told
    channel = store.channel(MODEL, "stable")
    assert channel is not None and channel.version == version
    assert "epoch" in not_replicated(lambda: store.acquire_epoch(MODEL, "trainer"))
    replica.replicate(primary)
    assert store.acquire_epoch(MODEL, "trainer") == 2


def test_a_repeated_publication_is_confirmed_with_its_move(
    store: Store, primary: RedisServer, replica: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = stored(store, 1, commit_id="first")
    move = type(store).move_channel

    def unconfirmed(self: Store, *arguments: object, **options: object) -> object:
        replica.detach()
        return move(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(type(store), "move_channel", unconfirmed)
    not_replicated(lambda: publish(store, manifest))
    # The channel stands there already, so nothing is moved: the version's commit waits for both.
    not_replicated(lambda: publish(store, manifest))
    replica.replicate(primary)
    assert publish(store, manifest).moved
    with open_store(failed_over(primary, replica)) as survivor:
        channel = survivor.channel(MODEL, "stable")
        assert channel is not None and channel.version == 1


def test_a_refusal_needs_no_replica(store: Store, replica: RedisServer) -> None:
    replica.detach()
    with pytest.raises(Exception, match="epoch") as raised:
        store.create_version(stored(store, 1, epoch=3))
    assert getattr(raised.value, "reason", "") == "UNKNOWN_EPOCH"


def test_without_waiting_nothing_is_asked_of_replicas(primary: RedisServer) -> None:
    with open_store(primary.url) as store:
        publish(store, stored(store, 1))
    assert not primary.admin.exists(CONFIRMED)


def child_of(manifest: Manifest, store: Store, step: int) -> Manifest:
    fields = {name: getattr(manifest, name) for name in ("model", "epoch")}
    made_of = stored(store, step, **fields)
    return Manifest(
        **{
            name: getattr(made_of, name)
            for name in ("model", "program", "signature", "tensors", "epoch", "step", "probe")
        },
        parent=manifest.version,
    )


def test_a_number_that_a_failover_lost_is_never_given_again(
    primary: RedisServer, replica: RedisServer
) -> None:
    with open_store(primary.url) as store:
        epoch = store.acquire_epoch(MODEL, "trainer")
        publish(store, stored(store, 1, epoch=epoch))
        replica.wait_replicated(primary)
        replica.detach()
        publish(store, stored(store, 2, epoch=epoch))
        lost = publish(store, stored(store, 3, epoch=epoch))
    with (
        open_store(failed_over(primary, replica)) as survivor,
        structlog.testing.capture_logs() as logs,
    ):
        assert survivor.versions(MODEL) == [1]
        first = publish(survivor, child_of(lost.manifest, survivor, 4))
        second = publish(survivor, child_of(first.manifest, survivor, 5))
    assert [first.manifest.version, second.manifest.version] == [4, 5]
    warnings = [entry for entry in logs if entry["event"] == "model store went back"]
    assert len(warnings) == 1 and "published version 3" in warnings[0]["message"]
    # Whoever acted on the lost move waits until the line has gone beyond it.
    assert not first.channel.follows(lost.channel)
    assert not second.channel.follows(lost.channel)


def test_a_primary_is_found_by_its_sentinels(
    tmp_path: Path, primary: RedisServer, replica: RedisServer
) -> None:
    with Sentinel(tmp_path / "sentinel", primary) as sentinel:
        url = f"redis+sentinel://{HOST}:1,{HOST}:{sentinel.port}/prime/0?{WAITING}"
        with open_store(url) as store:
            publish(store, stored(store, 1))
            sentinel.wait_knows(replica)
            primary.kill()
            with pytest.raises(Unavailable):
                store.versions(MODEL)
            sentinel.wait_leads_to(replica)
            assert assert_whole(store) == [1]
            # Nobody is left to confirm.
            not_replicated(lambda: store.acquire_epoch(MODEL, "trainer"))
        assert store.url == f"redis+sentinel://{HOST}:1,{HOST}:{sentinel.port}/prime/0"


class Sentinel(RedisServer):
    """One sentinel, which alone decides; it calls the primary "prime"."""

    def __init__(self, directory: Path, primary: RedisServer) -> None:
        super().__init__(directory)
        self._config = directory / "sentinel.conf"
        self._config.write_text(
            f"sentinel monitor prime {HOST} {primary.port} 1\n"
            "sentinel down-after-milliseconds prime 300\n"
            "sentinel failover-timeout prime 3000\n"
        )

    def arguments(self) -> list[str]:
        return [str(self._config), "--sentinel", "--port", str(self.port), "--bind", HOST]

    def wait_knows(self, replica: RedisServer) -> None:
        self._wait(lambda: [one["port"] for one in self.admin.sentinel_slaves("prime")], replica)

    def wait_leads_to(self, replica: RedisServer) -> None:
        self._wait(
            lambda: (
                [self.admin.sentinel_get_master_addr_by_name("prime")[1]]
                if replica.admin.info("replication")["role"] == "master"
                else []
            ),
            replica,
        )

    @staticmethod
    def _wait(ports: object, replica: RedisServer) -> None:
        deadline = time.monotonic() + 60
        while replica.port not in ports():  # type: ignore[operator]
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://u:secret@h/0?wait_replica=1", "did you mean wait_replicas"),
        ("redis://u:secret@h/0?socket_timeout=9", "has no setting 'socket_timeout'"),
        ("redis://u:secret@h/0?wait_replicas=-1", "wait_replicas is '-1'; expected 0 to 64"),
        ("redis://u:secret@h/0?wait_replicas=1&wait_ms=0", "expected 1 to 1000"),
        ("redis://u:secret@h/0?wait_ms", "not key=value"),
        ("redis://u:secret@h/0?ssl_ca_certs=ca", "ssl_ca_certs needs TLS, which is rediss://"),
        ("redis+sentinel://u:secret@h/prime?ssl_certfile=c", "ssl_certfile needs TLS"),
        ("redis+sentinel://u:secret@h,/prime", "each sentinel must be host:port"),
        ("redis+sentinel://u:secret@h:x/prime", "each sentinel must be host:port"),
        ("redis+sentinel://u:secret@h:1", "needs the primary's name"),
    ],
)
def test_a_url_that_cannot_be_used_says_why(url: str, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told) as raised:
        open_store(url)
    assert raised.value.reason == "BAD_STORE_URL"
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_url_names_server_sentinels_and_what_is_waited_for() -> None:
    plain = RedisLocation.of("rediss://u:secret@h:1/2?ssl_ca_certs=ca&wait_replicas=2&wait_ms=50")
    assert plain.client_url == "rediss://u:secret@h:1/2?ssl_ca_certs=ca"
    assert (plain.address, plain.wait_replicas, plain.wait_ms) == ("rediss://h:1/2", 2, 50)
    by_name = RedisLocation.of("redis+sentinel://u:secret@a:1,[::1]/prime/3")
    assert by_name.sentinels == (("a", 1), ("::1", 26379)) and by_name.primary == "prime"
    assert by_name.client_url == "redis://u:secret@/3"
    assert "secret" not in repr(plain) + repr(by_name)
