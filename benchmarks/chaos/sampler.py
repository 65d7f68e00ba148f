"""Looks at everything from outside while a scenario runs: processes, gateway, status, channel.

Each kind of look has a thread of its own, because one of them may have to wait for a process that
is stopped. What they see is written down, not judged.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.synchronize import Event
from pathlib import Path

import grpc
from typer.testing import CliRunner

from benchmarks.chaos.exact import NAME
from benchmarks.chaos.record import Recorder
from chassis.connections import open_channel
from chassis.edge import Stub
from chassis.errors import HeadraceError
from headrace.cli.calls import GATEWAY_ADMIN, state_name
from headrace.cli.main import app
from model_store import open_store
from protos.headrace.v1 import gateway_pb2

ENDPOINTS_EVERY_S = 0.1
PROCESSES_EVERY_S = 0.25
STATUS_EVERY_S = 0.4
CHANNEL_EVERY_S = 0.15
CALL_S = 1.0
PROCESSES = "processes.json"


def sample(done: Event, admin: str, store_url: str, directory: Path) -> None:
    """Looks until `done`; `directory` holds PROCESSES, process ids by name, and takes the lines."""
    with Recorder(directory, "sampler") as recorder:
        looks: list[tuple[float, Callable[[], None]]] = [
            (ENDPOINTS_EVERY_S, Endpoints(admin, recorder)),
            (PROCESSES_EVERY_S, Processes(directory, recorder)),
            (STATUS_EVERY_S, Status(admin, recorder)),
            (CHANNEL_EVERY_S, StoreChannel(store_url, recorder)),
        ]
        threads = [threading.Thread(target=_look, args=(done, *look)) for look in looks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _look(done: Event, every_s: float, look: Callable[[], None]) -> None:
    while not done.wait(every_s):
        look()


class Endpoints:
    """The gateway's own view."""

    def __init__(self, admin: str, recorder: Recorder) -> None:
        self._stub = Stub(open_channel(admin), GATEWAY_ADMIN)
        self._recorder = recorder

    def __call__(self) -> None:
        try:
            seen = self._stub.GetStatus(gateway_pb2.GatewayGetStatusRequest(), timeout=CALL_S)
        except grpc.RpcError:
            return
        states = {
            endpoint.address: state_name(
                gateway_pb2.EndpointState, endpoint.state, "ENDPOINT_STATE_"
            )
            for endpoint in seen.endpoints
        }
        self._recorder.write(
            "endpoints",
            states=states,
            queued=sum(model.queued_requests for model in seen.models),
            inflight=sum(endpoint.inflight_batches for endpoint in seen.endpoints),
        )


class Processes:
    """Memory, open descriptors, threads, and the time without a core, of each process."""

    def __init__(self, directory: Path, recorder: Recorder) -> None:
        self._file = directory / PROCESSES
        self._recorder = recorder

    def __call__(self) -> None:
        for name, pid in json.loads(self._file.read_text()).items():
            # Killed meanwhile.
            with suppress(OSError, KeyError):
                self._recorder.write("sample", process=name, **_held_by(pid))


def _held_by(pid: int) -> dict[str, float]:
    process = Path("/proc") / str(pid)
    fields = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line
    )
    return {
        "memory_bytes": int(fields["VmRSS"].split()[0]) * 1024,
        "descriptors": len(list((process / "fd").iterdir())),
        "threads": int(fields["Threads"]),
        "waited_s": sum(_waited_s(task) for task in (process / "task").iterdir()),
    }


def _waited_s(task: Path) -> float:
    """How long a thread was ready to run and had no core, since it began; 0 once it ended."""
    with suppress(OSError):
        return int((task / "schedstat").read_text().split()[1]) / 1e9
    return 0.0


class Status:
    """What `headrace status` prints, and the replicas' versions out of it."""

    def __init__(self, admin: str, recorder: Recorder) -> None:
        self._arguments = ["status", "--gateway-admin", admin, "-o", "json"]
        self._recorder = recorder

    def __call__(self) -> None:
        answer = CliRunner().invoke(app, self._arguments)
        if answer.exit_code:
            self._recorder.write("status", text=str(answer.exception or answer.output))
            return
        self._recorder.write("status", text=answer.output)
        for row in json.loads(answer.output)["replicas"]:
            if row.get("model") == NAME:
                self._recorder.write(
                    "serving", replica=row["replica"], version=row["serving"], age_s=row["age_s"]
                )


class StoreChannel:
    """The channel, as a reader of the store sees it that believes everything."""

    def __init__(self, url: str, recorder: Recorder) -> None:
        self._url = url
        self._store = open_store(url)
        self._recorder = recorder

    def __call__(self) -> None:
        try:
            channel = self._store.channel(NAME, "stable")
        except HeadraceError as error:
            if error.reason == "STORE_LOST_DATA":
                self._store = open_store(self._url)
            return
        if channel is not None:
            self._recorder.write(
                "channel",
                version=channel.version,
                revision=channel.revision,
                epoch=channel.epoch,
                held=channel.held,
            )
