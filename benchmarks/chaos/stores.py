"""Model stores as a scenario mistreats them: files, a Redis server of its own, an S3 server.

Each has a `url` for whoever reads and writes it and its own ways of going wrong.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.chaos.front import Front
from tests.redis_server import HOST, RedisServer
from tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server


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

    settings = ""

    def __init__(self, directory: Path) -> None:
        self.first = RedisServer(directory / "first")
        self.second = RedisServer(directory / "second")
        self.first.start()
        self.second.start("--replicaof", f"{HOST} {self.first.port}")
        self.second.wait_replicated(self.first)
        self.front = Front(self.first.port)
        self.url = f"redis://{HOST}:{self.front.port}/0{self.settings}"

    def fail_over(self) -> None:
        """The second server becomes the primary, and the address leads to it."""
        self.second.promote()
        self.front.point_to(self.second.port)

    def close(self) -> None:
        """Ends both servers and the address."""
        self.front.close()
        self.first.kill()
        self.second.kill()


class ConfirmedPlace(PairPlace):
    """The same, and commits wait for the replica."""

    settings = "?wait_replicas=1&wait_ms=200"


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
