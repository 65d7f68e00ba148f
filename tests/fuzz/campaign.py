"""A fuzz run: real servers, a witness beside the fire, and what held."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tritonclient.grpc as triton

from headrace import Client, Publisher
from tests.conformance.models import all_models
from tests.fuzz.plan import shots, warm_up
from tests.fuzz.shot import Shot
from tests.fuzz.tally import Tally
from tests.fuzz.valid import KEY, REGION_BYTES
from tests.fuzz.vitals import Vitals, rested
from tests.fuzz.volley import fire
from tests.system.stack import Service, Stack, wait_until

# Shots of the warm-up: some seconds of them bring allocators and caches to the size they keep.
WARM_UP = 2_000
# Lines of a log that a report shows from its first error on.
SHOWN_LINES = 40


@dataclass
class Report:
    """What a run saw; `broken` names each thing that did not hold."""

    seed: int
    mutations: int
    hostile: int
    seconds: float = 0.0
    endings: dict[str, int] = field(default_factory=dict)
    witness: dict[str, dict[str, object]] = field(default_factory=dict)
    vitals: dict[str, dict[str, float]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def line(self) -> str:
        """One line of JSON with the verdict."""
        verdict = "held" if not self.broken else "broken"
        return json.dumps({"verdict": verdict, **asdict(self)})


def run(directory: Path, *, seed: int, mutations: int, hostile: int) -> Report:
    """Starts a gateway over a replica, fires at both, and reports."""
    report = Report(seed, mutations, hostile)
    with _served(directory) as stack:
        servers = {"gateway": stack.gateway, "replica": stack.replicas[0]}
        with _witness(servers, Report(seed, 0, 0)):
            _fire(servers, warm_up(WARM_UP, WARM_UP))
        _let_go(servers)
        before = {name: rested(server.process.pid) for name, server in servers.items()}
        started = time.monotonic()
        with _witness(servers, report):
            tally = _fire(servers, shots(seed, mutations, hostile))
        report.seconds = round(time.monotonic() - started, 1)
        report.endings = dict(sorted(tally.endings.items()))
        report.broken += tally.wrong
        _let_go(servers)
        _check_vitals(servers, before, report)
        _check_logs(servers, report)
    return report


def _fire(servers: dict[str, Service], planned: Iterator[Shot]) -> Tally:
    """Each shot at whichever server has a free place."""
    tally = Tally()

    async def at_both() -> None:
        async with asyncio.TaskGroup() as group:
            for name, server in servers.items():
                group.create_task(
                    fire(name, server.address, server.serving["http_port"], planned, tally)
                )

    asyncio.run(at_both())
    return tally


def _let_go(servers: dict[str, Service]) -> None:
    """Regions of shared memory that shots registered hold descriptors; some may be left."""
    for server in servers.values():
        with triton.InferenceServerClient(server.address) as client:
            client.unregister_system_shared_memory()
            assert not client.get_system_shared_memory_status().regions


@contextmanager
def _served(directory: Path) -> Iterator[Stack]:
    store = f"file://{directory}/store"
    models = all_models()
    for model in models:
        with Publisher(store, model=model) as publisher:
            publisher.publish(model.build())
    names = ",".join(model.name for model in models)
    settings = {"http_port": 0, "shared_memory": "true"}
    stack = Stack(directory, store, names, replica_settings=dict(settings))
    memory = Path("/dev/shm") / KEY.strip("/")
    memory.write_bytes(bytes(REGION_BYTES))
    try:
        stack.start(replicas=1, **settings)
        with Client(stack.gateway.address) as client:
            for model in models:
                wait_until(
                    lambda name=model.name: client.ready(name), within_s=60, what="models ready"
                )
        yield stack
    finally:
        stack.stop()
        memory.unlink(missing_ok=True)


@contextmanager
def _witness(servers: dict[str, Service], report: Report) -> Iterator[None]:
    addresses = [f"{name}={server.address}" for name, server in servers.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.witness", *addresses],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield
    finally:
        printed, _ = process.communicate(timeout=60)
    report.witness = json.loads(printed)
    for name, record in report.witness.items():
        if record["failures"] or not record["requests"]:
            report.broken.append(f"good requests to the {name}: {record}")


def _check_logs(servers: dict[str, Service], report: Report) -> None:
    """No request may lead to an error in a log, nor to a traceback."""
    for name, server in servers.items():
        lines = server.log.read_text().splitlines()
        for number, line in enumerate(lines):
            if '"level": "error"' in line or "Traceback" in line:
                shown = "\n".join(lines[number : number + SHOWN_LINES])
                report.broken.append(f"the log of the {name}: {shown}")
                break


def _check_vitals(servers: dict[str, Service], before: dict[str, Vitals], report: Report) -> None:
    for name, server in servers.items():
        if server.process.poll() is not None:
            report.broken.append(f"the {name} ended with code {server.process.returncode}")
            continue
        after = rested(server.process.pid)
        report.vitals[name] = {
            "memory_mb_before": round(before[name].memory_bytes / 1e6, 1),
            "memory_mb_after": round(after.memory_bytes / 1e6, 1),
            "descriptors_before": before[name].descriptors,
            "descriptors_after": after.descriptors,
        }
        if not after.within(before[name]):
            report.broken.append(f"the {name} is not back at its baseline: {report.vitals[name]}")
