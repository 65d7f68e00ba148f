"""One run of a scenario: a store, two replicas, a gateway, clients, publishers, and the record.

Decides the order of every run: serve, load, baseline, fault, clear, one more publication that all
replicas must come to serve, proof, end. What goes wrong in between is the scenario's.
"""

from __future__ import annotations

import json
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.chaos.children import Child
from benchmarks.chaos.clients import Load, ask
from benchmarks.chaos.collector import Round, collect
from benchmarks.chaos.exact import NAME, weights_of
from benchmarks.chaos.forgery import FORGED
from benchmarks.chaos.invariants import SETTLED_WITHIN_S, settled
from benchmarks.chaos.record import Record, Recorder
from benchmarks.chaos.sampler import PROCESSES, sample
from benchmarks.chaos.service import Service
from benchmarks.chaos.stores import Place
from benchmarks.chaos.trainer import Order, train
from chassis.connections import open_channel
from chassis.edge import Stub
from chassis.errors import HeadraceError
from chassis.oip import SERVICE as OIP
from headrace.cli.calls import GATEWAY_ADMIN, REPLICA
from inference_service.policy.cadence import GAPS, LEAST_S, OVERDUE
from model_store import Store, open_store
from model_store.checking import Check
from protos.headrace.v1 import gateway_pb2, replica_pb2
from protos.inference import grpc_service_pb2 as oip

POLL_S = 0.05
READY_WITHIN_S = 240.0
WARM_VERSIONS = 4
BASELINE_S = 2.0
PROOF_S = 1.5
CALL_S = 2.0
LOAD_S = 30.0
# The sampler has looked at the status by then.
SEEN_AFTER_S = 1.0
# As many versions as make a habit of a trainer, and one more.
HABIT = GAPS + 2
OVERDUE_WITHIN_S = 10.0
# How long nothing must be published so that this is seen.
SILENCE_S = LEAST_S + 3.0
HEALTHY = gateway_pb2.ENDPOINT_STATE_HEALTHY
SHOWN = ("warning", "error", "critical")


class NotInTime(Exception):
    """Something that a scenario waited for did not happen."""


@dataclass(frozen=True)
class Extent:
    """How much of a scenario is run around its fault."""

    replicas: int = 2
    callers: int = 8
    # Between a caller's answer and its next call.
    pause_s: float = 0.03
    # Armed in replicas as the scenario starts them.
    replica_failpoints: str = ""
    # Settings of replicas beside those of every scene.
    replica_settings: Mapping[str, object] = field(default_factory=dict)


class Scene:
    """A context manager: everything runs inside it and nothing outlives it."""

    def __init__(
        self, directory: Path, place: Callable[[Path], Place], seed: int, extent: Extent
    ) -> None:
        self.directory = directory
        self.record_directory = directory / "record"
        self.record_directory.mkdir(parents=True)
        self.seed = seed
        self.extent = extent
        self.draw = np.random.default_rng(seed)
        self.replicas: list[Service] = []
        self.gateway: Service | None = None
        self._make_place = place
        self._recorder = Recorder(self.record_directory, "harness")
        self._children: list[Child] = []
        self._seeds = seed * 100_000
        self._trainers = 0
        self._cleared_at = 0.0
        self._place: Place | None = None

    def __enter__(self) -> Scene:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @property
    def place(self) -> Any:
        """The store's servers; of the kind that the scenario asked for."""
        assert self._place is not None
        return self._place

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The model store as a program of its own would open it."""
        with open_store(self.place.url) as store:
            yield store

    # Publishers

    def trainer(self, name: str = "", **order: Any) -> Child:
        """Starts a publisher; `order` is what `Order` takes beside the URL and the seeds."""
        self._trainers += 1
        name = name or f"t{self._trainers}"
        # Room for as many versions as any publisher makes: no two have a seed in common.
        first = self._seeds + self._trainers * 1000
        given = Order(**{"url": self.place.url, "first": first, **order})
        log = self.directory / f"trainer-{name}.log"
        child = Child(f"trainer-{name}", log, train, name, given, self.record_directory)
        self._children.append(child)
        return child

    def publish(
        self, count: int = 1, *, every_s: float = 0.0, within_s: float = 60.0, **order: Any
    ) -> int:
        """Publishes in a process of its own; returns its exit code, negative for a signal."""
        child = self.trainer(count=count, every_s=every_s, **order)
        code = child.wait_ended(within_s)
        if code is None:
            raise NotInTime(f"{child.name} did not end within {within_s:g} s")
        return code

    def collector(self, **order: Any) -> Child:
        """Starts a collector of a store of files; `order` is what `Round` takes beside the URL."""
        given = Round(**{"url": self.place.url, "root": self.place.root, **order})
        log = self.directory / "collector.log"
        child = Child("collector", log, collect, given, self.record_directory)
        self._children.append(child)
        return child

    def collect(self, **order: Any) -> int:
        """One collection; returns its exit code, negative for a signal."""
        code = self.collector(count=1, **order).wait_ended(60.0)
        if code is None:
            raise NotInTime("a collection did not end within 60 s")
        return code

    def collected(self) -> list[int]:
        """The versions that collectors have removed so far."""
        files = (self.record_directory / f"{name}.jsonl" for name in ("collector", "harness"))
        lines = [
            json.loads(line)
            for file in files
            if file.exists()
            for line in file.read_text().splitlines()
            if '"collected"' in line
        ]
        return sorted(version for line in lines for version in line["versions"])

    def check_whole(self) -> None:
        """Raises NotInTime if anything in the store is damaged or missing."""
        with self.store() as store:
            findings = Check(store).run().findings
        if findings:
            raise NotInTime(f"the store is not whole: {findings[0].message}")

    def trainer_under_way(self, versions: int = 1, **order: Any) -> Child:
        """A trainer that has published so many versions."""
        wanted = self.newest() + versions
        child = self.trainer(**order)
        self.wait(lambda: self.newest() >= wanted, within_s=30.0, what=f"{child.name} publishes")
        return child

    def expect_overdue(self) -> None:
        """From now on status and log must say that publications stopped."""
        self.expect_both(OVERDUE, OVERDUE_WITHIN_S)

    def wait_goes_on(self) -> None:
        """Waits until the channel moves beyond where it is once the store answers."""
        seen: list[int] = []

        def moved() -> bool:
            seen.append(self.newest())
            return seen[-1] > seen[0]

        self.wait(moved, within_s=40.0, what="the trainer goes on")

    def newest(self) -> int:
        """The version that the channel names."""
        with self.store() as store:
            channel = store.channel(NAME, "stable")
            return 0 if channel is None else channel.version

    def newest_epoch(self) -> int:
        """The newest fencing token that was handed out."""
        with self.store() as store:
            return store.epoch(NAME)

    # What is seen

    def status_of(self, replica: Service) -> replica_pb2.ReplicaGetStatusResponse | None:
        """A replica's own status; None where it does not answer."""
        with open_channel(replica.address) as channel:
            stub = Stub(channel, REPLICA)
            with suppress(grpc.RpcError):
                answer: replica_pb2.ReplicaGetStatusResponse = stub.GetStatus(
                    replica_pb2.ReplicaGetStatusRequest(), timeout=CALL_S
                )
                return answer
        return None

    def serving(self) -> list[int]:
        """The version that each replica serves; 0 for none, -1 where it does not answer."""
        found = []
        for replica in self.replicas:
            status = self.status_of(replica)
            found.append(-1 if status is None else status.models[0].serving_version)
        return found

    def refused(self, replica: Service, version: int) -> bool:
        """Whether the replica names that version as one that it could not load."""
        status = self.status_of(replica)
        return status is not None and any(
            failure.version == version for failure in status.models[0].failures
        )

    def failures(self, replica: Service) -> list[str]:
        """The loads that failed there and why; empty where it does not answer."""
        status = self.status_of(replica)
        found = [] if status is None else status.models[0].failures
        return [f"v{failure.version} {failure.reason}" for failure in found]

    def swaps(self, replica: Service) -> int:
        """How many versions came to serve there; -1 where it does not answer."""
        status = self.status_of(replica)
        return -1 if status is None else status.models[0].swaps

    def logged(self, text: str) -> bool:
        """Whether any process's log holds the text."""
        return any(text in log.read_text(errors="replace") for log in self.directory.glob("*.log"))

    def wait_refused(self, version: int) -> None:
        """Waits until every replica has refused the version, and lets the load go on a little."""
        self.wait(
            lambda: all(self.refused(replica, version) for replica in self.replicas),
            within_s=20.0,
            what=f"version {version} is refused",
        )
        self.rest(SEEN_AFTER_S)

    def all_serve(self, version: int) -> bool:
        """Whether every replica serves that version."""
        return self.serving() == [version] * len(self.replicas)

    def states(self) -> dict[str, int]:
        """What the gateway makes of each endpoint."""
        assert self.gateway is not None
        with open_channel(self.gateway.admin) as channel:
            seen = Stub(channel, GATEWAY_ADMIN).GetStatus(
                gateway_pb2.GatewayGetStatusRequest(), timeout=CALL_S
            )
        return {endpoint.address: endpoint.state for endpoint in seen.endpoints}

    def wait(self, condition: Callable[[], bool], *, within_s: float, what: str) -> None:
        """Looks until it is so. Raises NotInTime."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with suppress(grpc.RpcError, HeadraceError):
                if condition():
                    return
            time.sleep(POLL_S)
        raise NotInTime(f"not within {within_s:g} s: {what}")

    def wait_served(self, version: int | None = None, *, within_s: float = 20.0) -> int:
        """Waits until every replica serves `version`, else what the channel names now."""
        wanted = self.newest() if version is None else version
        self.wait(
            lambda: self.all_serve(wanted), within_s=within_s, what=f"version {wanted} serves"
        )
        return wanted

    def rest(self, seconds: float) -> None:
        """Lets the load go on for a while."""
        time.sleep(seconds)

    # What is done to it

    @contextmanager
    def fault(self, what: str) -> Iterator[None]:
        """The fault lasts from here to the end of the block."""
        self._recorder.write("phase", name="fault")
        self._recorder.write("fault", phase="begin", what=what)
        yield
        self._cleared_at = self._recorder.write("fault", phase="clear", what=what)

    def expect(self, where: str, text: str, within_s: float) -> None:
        """From now on `where` ("status" or "log") must show this pattern, within seconds."""
        self._recorder.write("expect", where=where, text=text, within_s=within_s)

    def expect_both(self, text: str, within_s: float = 10.0) -> None:
        """Status and log must show the pattern."""
        self.expect("status", text, within_s)
        self.expect("log", text, within_s)

    def note(self, kind: str, **fields: Any) -> None:
        """Adds a line to the record."""
        self._recorder.write(kind, **fields)

    def kill_replica(self, replica: Service) -> None:
        """kill -9."""
        self.note("replica", address=replica.address, up=False, cause="killed")
        replica.kill()

    def stop_replica(self, replica: Service) -> None:
        """SIGSTOP."""
        self.note("replica", address=replica.address, up=False, cause="stopped")
        replica.signal(signal.SIGSTOP)

    def wake_replica(self, replica: Service) -> None:
        """SIGCONT; returns once the gateway uses it again."""
        replica.signal(signal.SIGCONT)
        self.wait_used(replica)

    def start_replica(self, replica: Service, failpoints: str = "") -> None:
        """Starts one that was killed, on its port; it may die again where failpoints say so."""
        replica.launch(failpoints)
        self._tell_processes()

    def wait_used(self, replica: Service) -> None:
        """Returns once the gateway sends batches to the replica."""
        self.wait(
            lambda: self.states()[replica.address] == HEALTHY,
            within_s=READY_WITHIN_S,
            what=f"{replica.name} is used again",
        )
        self.note("replica", address=replica.address, up=True, cause="")

    def wait_died(self, replica: Service, *, within_s: float) -> None:
        """Returns once the replica died by its own failpoint."""
        if not replica.wait_ended(within_s):
            raise NotInTime(f"{replica.name} did not die within {within_s:g} s")
        self.note("replica", address=replica.address, up=False, cause="killed")

    def wait_busy(self, replica: Service) -> None:
        """Returns while the replica computes a batch, or moments after."""

        def busy() -> bool:
            status = self.status_of(replica)
            return status is not None and status.inflight > 0

        self.wait(busy, within_s=20.0, what=f"a batch runs on {replica.name}")

    def restart(self, replica: Service) -> None:
        """SIGTERM, and the same replica anew; returns once it is used."""
        self.note("replica", address=replica.address, up=False, cause="")
        replica.stop()
        self.start_replica(replica)
        self.wait_used(replica)

    def pin(self, version: int) -> None:
        """Tells the fleet to serve that version, and returns once it does; 0: the channel again."""
        policy = {"specific": {"versions": [version]}} if version else {"latest": {}}
        assert self.gateway is not None
        # Also where it goes back: an operator asked for it.
        self.note("rollback", version=version)
        self.note("pin", version=0)
        with open_channel(self.gateway.admin) as channel:
            request = oip.RepositoryModelLoadRequest(model_name=NAME)
            request.parameters["config"].string_param = json.dumps({"version_policy": policy})
            Stub(channel, OIP).RepositoryModelLoad(request, timeout=LOAD_S)
        if version:
            self.wait_served(version)
            self.note("pin", version=version)

    def address_space(self, replica: Service) -> int:
        """Bytes that the process has mapped."""
        pages = int(Path(f"/proc/{replica.pid}/statm").read_text().split()[0])
        return pages * resource.getpagesize()

    # The run

    def finish(self) -> None:
        """One more version reaches every replica, the load goes on, everything settles."""
        left_s = SETTLED_WITHIN_S - (time.monotonic() - self._cleared_at)
        # What takes longer is for the checker to tell; it needs the rest of the record for that.
        self._published()
        self.wait_served(within_s=max(5.0, left_s) + 30.0)
        self._recorder.write("phase", name="proof")
        time.sleep(PROOF_S)
        while not self._is_settled() and time.monotonic() < self._cleared_at + SETTLED_WITHIN_S + 1:
            time.sleep(0.5)
        self._recorder.write("phase", name="end")

    def _is_settled(self) -> bool:
        # Judged as the checker will, on the small part of the record that it needs for this.
        files = ("harness", "sampler")
        lines = [
            json.loads(text)
            for name in files
            for text in (self.record_directory / f"{name}.jsonl").read_text().splitlines()
            if text.endswith("}")
        ]
        lines.append({"kind": "phase", "name": "end", "at": time.monotonic()})
        return settled(Record(lines)).verdict("I5").held

    def _start(self) -> None:
        self._place = self._make_place(self.directory)
        self._launch_replicas()
        # The first one exports the program.
        self._published(WARM_VERSIONS - 1)
        for replica in self.replicas:
            replica.wait_until_serving()
        self._start_gateway()
        self._start_watching()
        self._published()
        self.wait_served(within_s=30.0)
        self._recorder.write("phase", name="baseline")
        time.sleep(BASELINE_S)

    def _published(self, count: int = 1) -> None:
        code = self.publish(count)
        if code:
            raise NotInTime(f"a publication outside the fault ended with {code}")

    def _launch_replicas(self) -> None:
        for index in range(self.extent.replicas):
            settings = {
                "port": 0,
                "store": self.place.url,
                "models": NAME,
                "threads": 1,
                "drain_notice_s": 0,
                **self.extent.replica_settings,
            }
            name = f"replica-{index}"
            self.replicas.append(
                Service("inference_service", settings, self.directory / f"{name}.log")
            )
            self.replicas[-1].launch(self.extent.replica_failpoints)

    def _start_gateway(self) -> None:
        settings = {
            "port": 0,
            "http_port": -1,
            "metrics_port": -1,
            "admin_port": 0,
            "drain_notice_s": 0,
            "endpoints": ",".join(replica.address for replica in self.replicas),
        }
        self.gateway = Service("gateway", settings, self.directory / "gateway.log")
        self.gateway.launch()
        self.gateway.wait_until_serving()
        self.wait(
            lambda: set(self.states().values()) == {HEALTHY},
            within_s=READY_WITHIN_S,
            what="every replica is used",
        )
        for replica in self.replicas:
            self.note("replica", address=replica.address, up=True, cause="")

    def _start_watching(self) -> None:
        assert self.gateway is not None
        self._tell_processes()
        records = self.record_directory
        log = self.directory
        load = Load(self.gateway.address, self.seed, self.extent.callers, self.extent.pause_s)
        watch = (self.gateway.admin, self.place.url, records)
        self._children.append(Child("clients", log / "clients.log", ask, load, records))
        self._children.append(Child("sampler", log / "sampler.log", sample, *watch))

    def _tell_processes(self) -> None:
        services = [*self.replicas, *filter(None, [self.gateway])]
        pids = {service.name: service.pid for service in services if service.running}
        final = self.record_directory / PROCESSES
        temporary = final.with_suffix(".tmp")
        temporary.write_text(json.dumps(pids))
        temporary.replace(final)

    def _stop(self) -> None:
        for child in reversed(self._children):
            child.stop()
        for service in [*filter(None, [self.gateway]), *self.replicas]:
            service.stop()
        if self._place is not None:
            with suppress(HeadraceError):
                self._record_store()
            self._place.close()
        self._record_logs()
        self._recorder.close()

    def _record_store(self) -> None:
        with self.store() as store:
            for version in store.versions(NAME):
                self.note("stored", version=version, **_found(store, version))

    def _record_logs(self) -> None:
        offset_s = time.monotonic() - time.time()
        for file in sorted(self.directory.glob("*.log")):
            for event in _events(file):
                at = datetime.fromisoformat(event["timestamp"]).timestamp() + offset_s
                if event.get("level") in SHOWN:
                    self._recorder.write("log", at=at, process=file.stem, text=json.dumps(event))


def _events(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            with suppress(json.JSONDecodeError):
                yield json.loads(line)


def _found(store: Store, version: int) -> dict[str, object]:
    """Whose weights a stored version should hold and whether it holds them."""
    seed = -1
    try:
        manifest = store.manifest(NAME, version)
        seed = -1 if manifest.step == FORGED else manifest.step
        blobs = {digest: store.read_blob(digest) for digest in manifest.digests()}
    except HeadraceError:
        return {"seed": seed, "whole": False}
    expected = {} if seed < 0 else weights_of(seed)
    whole = all(
        blobs[entry.digest] == expected[entry.name].tobytes()
        for entry in manifest.tensors
        if entry.name in expected
    )
    return {"seed": seed, "whole": whole}
