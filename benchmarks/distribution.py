"""`python -m benchmarks.distribution`: what a publication costs a fleet and its store.

Measures on this machine what a replica needs to give a blob to another and what the file store
needs to read one; then lets thousands of simulated replicas fetch a version, each blob by the tree
that `inference_service.policy.relay` makes, beside the same fleet reading from the store.

Simulated: every replica fetches its blobs one after the other; a link gives one blob at a time at
its full rate; a parent that lacks a blob gives it once it has it. Not simulated: routers between
racks, retransmission, replicas that share a machine.
"""

from __future__ import annotations

import argparse
import heapq
import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from os import urandom
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.report import table_console
from benchmarks.stack import HOST, Service
from chassis.connections import PLAIN
from inference_service.peers import CONNECT_S, PeerBlobs
from inference_service.policy.relay import MOST_TRIES, Relay
from model_store import open_store
from model_store.digests import digest, hex_part

MIB = 1024 * 1024
LARGE_BYTES = 64 * MIB
REPEATS = 5


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one small blob, and seconds per MiB of a large one."""

    call_s: float
    mib_s: float

    def seconds(self, size_bytes: int) -> float:
        """Of a blob of that size."""
        return self.call_s + self.mib_s * size_bytes / MIB


@dataclass(frozen=True, slots=True)
class Fetched:
    """How a fleet came to a version: seconds from the publication until half of the replicas and
    all of them had it, and how often a blob was read from the store."""

    half_s: float
    all_s: float
    store_reads: int


@dataclass(slots=True)
class Fleet:
    """Replicas that fetch the same blobs; `dead` of them answer nobody."""

    replicas: int
    blobs: Sequence[int]
    fanout: int
    peer: Costs
    store: Costs
    # How many reads the store serves at once, each at its full rate.
    store_lanes: int
    dead: int = 0

    def by_peers(self) -> Fetched:
        """Each blob by its tree."""
        names = [hex_part(digest(f"blob {at}".encode())) for at in range(len(self.blobs))]
        parents = [self._parents(name) for name in names]
        return self._run(lambda replica, at: parents[at][replica])

    def by_store(self) -> Fetched:
        """Everybody asks the store."""
        return self._run(lambda _replica, _at: ())

    def _parents(self, name: str) -> list[Sequence[int]]:
        addresses = [f"replica-{number}:8011" for number in range(self.replicas)]
        order = _order(addresses, name, self.fanout)
        place = {replica: at for at, replica in enumerate(order)}
        return [_ancestors(order, place[replica], self.fanout) for replica in range(self.replicas)]

    def _run(self, sources: Callable[[int, int], Sequence[int]]) -> Fetched:
        """`sources` names whom a replica asks for its nth blob before the store."""
        alive = range(self.dead, self.replicas)
        had: list[dict[int, float]] = [{} for _ in self.blobs]
        waiting: list[dict[int, list[tuple[float, int]]]] = [{} for _ in self.blobs]
        lanes = [0.0] * self.store_lanes
        free_at = dict.fromkeys(alive, 0.0)
        done: list[float] = []
        reads = 0
        # (when, replica, blob): it asks. A parent that lacks the blob answers once it has it.
        asking = [(0.0, replica, 0) for replica in alive]
        heapq.heapify(asking)
        while asking:
            now, replica, at = heapq.heappop(asking)
            parent, now = self._reachable(sources(replica, at), now)
            size = self.blobs[at]
            if parent is None:
                begun = max(now, heapq.heappop(lanes))
                arrived = begun + self.store.seconds(size)
                heapq.heappush(lanes, arrived)
                reads += 1
            elif parent not in had[at]:
                waiting[at].setdefault(parent, []).append((now, replica))
                continue
            else:
                begun = max(now, free_at[parent], had[at][parent])
                arrived = begun + self.peer.seconds(size)
                free_at[parent] = arrived
            had[at][replica] = arrived
            for asked, child in waiting[at].pop(replica, ()):
                heapq.heappush(asking, (max(asked, arrived), child, at))
            if at + 1 < len(self.blobs):
                heapq.heappush(asking, (arrived, replica, at + 1))
            else:
                done.append(arrived)
        return Fetched(float(np.median(done)), max(done), reads)

    def _reachable(self, ancestors: Sequence[int], now: float) -> tuple[int | None, float]:
        for ancestor in ancestors:
            if ancestor >= self.dead:
                return ancestor, now
            # A peer that is gone costs its children one failed connection.
            now += CONNECT_S
        return None, now


def _order(addresses: Sequence[str], name: str, fanout: int) -> list[int]:
    relay = Relay(addresses[0], fanout=fanout)
    relay.on_peers(addresses)
    number = {address: at for at, address in enumerate(addresses)}
    return [number[address] for address in relay.order(name)]


def _ancestors(order: Sequence[int], place: int, fanout: int) -> list[int]:
    found: list[int] = []
    while place and len(found) < MOST_TRIES:
        place = (place - 1) // fanout
        found.append(order[place])
    return found


def measured(directory: Path) -> tuple[Costs, Costs]:
    """What a peer and the file store cost here: a real replica process gives to this one."""
    url = f"file://{directory / 'store'}"
    with open_store(url) as store:
        small = [store.put_blob(urandom(1024)) for _ in range(REPEATS)]
        large = [store.put_blob(urandom(LARGE_BYTES)) for _ in range(REPEATS)]
        with _replica(directory, url) as address:
            peers = PeerBlobs(store, "asker", fanout=1, timeout_s=60, access=PLAIN)
            peers.on_peers([address])
            for name in (*small, *large):
                # Once, so that the replica holds it.
                peers.relayed(name, ())
            peer = _costs(lambda name: peers.relayed(name, ()), small, large)
            peers.close()
        return peer, _costs(store.read_blob, small, large)


def _costs(read: Callable[[str], bytes], small: list[str], large: list[str]) -> Costs:
    call_s = min(_timed(read, name) for name in small)
    return Costs(call_s, min(_timed(read, name) for name in large) / (LARGE_BYTES / MIB))


def _timed(read: Callable[[str], bytes], name: str) -> float:
    started = time.perf_counter()
    read(name)
    return time.perf_counter() - started


class _replica:  # noqa: N801 - a context manager, read as a function
    """A replica process that gives blobs; its address."""

    def __init__(self, directory: Path, store: str) -> None:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        # Its own name alone: the asker puts it at the root of every tree.
        self._address = f"{HOST}:{port}"
        settings = {
            "port": port,
            "store": store,
            "models": "none",
            "cache_dir": directory / "cache",
            "peers": self._address,
        }
        self._service = Service("inference_service", settings, directory / "log", threads=1)

    def __enter__(self) -> str:
        self._service.start()
        self._service.wait_until_serving()
        return self._address

    def __exit__(self, *_error: object) -> None:
        self._service.stop()


def fleets(options: argparse.Namespace, peer: Costs, store: Costs) -> Iterator[Fleet]:
    """The fleets asked for."""
    size = int(options.mib * MIB / options.blobs)
    for replicas in options.replicas:
        for dead in sorted({0, int(replicas * options.dead)}):
            blobs = [size] * options.blobs
            yield Fleet(replicas, blobs, options.fanout, peer, store, options.store_lanes, dead)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, simulates, prints."""
    options = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="headrace-distribution-") as directory:
        peer, store = measured(Path(directory))
    print(
        f"measured here: a peer {peer.call_s * 1e3:.1f} ms + {peer.mib_s * 1e3:.2f} ms/MiB, "
        f"the file store {store.call_s * 1e3:.2f} ms + {store.mib_s * 1e3:.2f} ms/MiB"
    )
    rows = []
    table = Table("replicas", "dead", "by", "half s", "all s", "store reads", "GiB from store")
    for fleet in fleets(options, peer, store):
        for way, fetched in (("peers", fleet.by_peers()), ("store", fleet.by_store())):
            gib = fetched.store_reads * fleet.blobs[0] / 1024**3
            rows.append({"replicas": fleet.replicas, "dead": fleet.dead, "by": way})
            rows[-1] |= asdict(fetched)
            table.add_row(
                f"{fleet.replicas:,}",
                str(fleet.dead),
                way,
                f"{fetched.half_s:.2f}",
                f"{fetched.all_s:.2f}",
                f"{fetched.store_reads:,}",
                f"{gib:,.2f}",
            )
    table_console().print(table)
    if options.json:
        record = {"peer": asdict(peer), "store": asdict(store), "fleets": rows}
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distribution", description=__doc__)
    add = parser.add_argument
    add("--replicas", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    add("--mib", type=float, default=100.0, help="MiB of a version")
    add("--blobs", type=int, default=10, help="blobs of a version, all of one size")
    add("--fanout", type=int, default=4, help="as the setting peer_fanout")
    add("--dead", type=float, default=0.01, help="share of the replicas that answer nobody")
    add("--store-lanes", type=int, default=16, help="reads that the store serves at once")
    add("--json", type=Path, help="write the figures here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
