"""Puts a replica together and gives it its life: start, ready, drain, stop.

Readiness comes with the first version of every model. Draining: not ready and out of the registry
first, time for gateways to notice, then streams end after their batches in flight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from chassis.oip import SERVICE as INFERENCE_SERVICE
from chassis.protection import protection_of
from chassis.rest.server import HttpServer
from chassis.server import RpcServer
from chassis.shared_memory_cuda import open_cuda
from chassis.telemetry import logger
from inference_service import metrics
from inference_service.admission import Admission
from inference_service.architecture import Architecture
from inference_service.device.kinds import open_device
from inference_service.distribution import Distribution
from inference_service.engines.compiler import Compiler
from inference_service.executor import Executor
from inference_service.peers import SERVICE as EXCHANGE_SERVICE
from inference_service.policy.staging_rate import StagingRate
from inference_service.readiness import Readiness
from inference_service.registry_redis import RegistryLease
from inference_service.repository import Repository
from inference_service.served import ServedModel
from inference_service.servicer import InferenceServicer
from inference_service.settings import ReplicaSettings
from inference_service.staging import Paced, Staging
from inference_service.status import SERVICE as STATUS_SERVICE
from inference_service.status import ReplicaServicer
from inference_service.version_lookup import VersionLookup
from model_store import Store

log = logger(__name__)

# A forward pass is waited for this long at most.
JOIN_S = 5.0
# What the drain did not finish over HTTP is cut off as soon as over gRPC.
HTTP_GRACE_S = 0.5
# Between two looks for idle sequences.
SWEEP_S = 1.0


class Replica:
    """One process's replica on one store. The constructor starts nothing.

    Raises InvalidArgument (NO_DEVICE, BAD_SETTING, BAD_KEY), FailedPrecondition (NO_SIGNING).
    """

    def __init__(self, settings: ReplicaSettings, store: Store) -> None:
        self.settings = settings
        self._store = store
        self._distribution = Distribution.of(settings, store)
        blobs = self._distribution.blobs
        device = open_device(settings.device)
        self.staging = open_staging(settings)
        self._compiler = Compiler(
            device.torch_device,
            folder=settings.compile_dir,
            timeout_s=settings.compile_timeout_s,
        )
        self.repository = Repository(
            settings,
            store,
            blobs,
            Architecture(
                blobs,
                device.torch_device,
                allow_import_path=settings.allow_import_path,
                compiler=self._compiler,
                staging=self.staging,
                lanes=device,
            ),
            on_change=self._announce_if_ready,
            on_first_flip=self._on_first_flip,
        )
        self.models: Mapping[str, ServedModel] = self.repository.models
        self.readiness = Readiness(self.models)
        self.admission = Admission(
            max_requests=settings.max_queue_requests, max_bytes=settings.max_queue_bytes
        )
        protection = protection_of(settings)
        self.server = RpcServer(
            settings.host,
            settings.port,
            message_bytes=settings.max_message_bytes,
            protection=protection,
        )
        self._executor = Executor(
            device,
            on_batch=self.staging.on_batch,
            max_generation_s=settings.max_generation_s,
            most_ahead=settings.max_responses_ahead,
        )
        self._lookup = VersionLookup(store)
        self._servicer = InferenceServicer(
            self.repository,
            executor=self._executor,
            admission=self.admission,
            readiness=self.readiness,
            lookup=self._lookup,
            max_stream_requests=settings.max_stream_requests,
            limits=settings.limits(settings.max_message_bytes),
            memory=settings.open_shared_memory(),
            device=open_cuda() if device.torch_device.type == "cuda" else None,
        )
        self.http = HttpServer(
            self._servicer,
            settings.host,
            settings.http_port,
            limits=settings.http_limits(settings.max_message_bytes),
            control=settings.allow_control,
            protection=protection,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lease: RegistryLease | None = None
        self._announcing: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Binds, serves, and begins to load; returns the port. Ready comes later.

        Raises InvalidArgument (PORT_IN_USE).
        """
        settings = self.settings
        self._loop = asyncio.get_running_loop()
        self.server.add_service(INFERENCE_SERVICE, self._servicer, control=settings.allow_control)
        name = settings.name or f"{settings.host}-{settings.port}"
        self.server.add_service(
            STATUS_SERVICE,
            ReplicaServicer(
                name=name,
                device=settings.device,
                models=self.models,
                admission=self.admission,
                readiness=self.readiness,
                staging=self.staging,
            ),
        )
        if self._distribution.servicer is not None:
            self.server.add_service(EXCHANGE_SERVICE, self._distribution.servicer, control=True)
        port = await self.server.start()
        await self.http.start()
        self._lease = self._make_lease(name, port)
        self._executor.start(self._loop)
        self._distribution.start()
        metrics.watch_staging(self.staging)
        self.repository.start()
        self._sweeping = asyncio.create_task(self._sweep())
        return port

    async def drain(self) -> None:
        """Turns callers away, lets what runs finish, ends streams. Takes at most `drain_s`."""
        self.readiness.draining = True
        self.http.start_draining()
        self.repository.close()
        await self.server.set_ready(False)
        if self._lease is not None:
            await self._lease.end()
        # Gateways that poll must see it before their next batch finds a closed stream.
        await asyncio.sleep(min(self.settings.drain_notice_s, self.settings.drain_s))
        self._servicer.end_streams()
        rest = max(0.0, self.settings.drain_s - self.settings.drain_notice_s)
        try:
            await asyncio.wait_for(self.admission.wait_idle(), rest)
        except TimeoutError:
            log.warning("drain time is over", inflight=self.admission.requests)
        await self.http.stop(HTTP_GRACE_S)

    async def stop(self, grace_s: float) -> None:
        """Closes the server after `grace_s` and ends the threads."""
        await self.server.stop(grace_s)
        await self.release()

    async def release(self) -> None:
        """Ends every thread and task of the replica, once the server has stopped."""
        for task in (self._announcing, self._sweeping):
            if task is not None:
                task.cancel()
        if self._lease is not None:
            await self._lease.end()
        self._distribution.stop()
        await self.repository.end_tasks()
        await asyncio.to_thread(self._end_threads)

    def _end_threads(self) -> None:
        self.repository.stop()
        self.repository.join_leases()
        # Wakes the watchers.
        self._store.close()
        self._executor.stop(JOIN_S)
        self._lookup.close()
        self.repository.join()
        self._compiler.close()

    async def _sweep(self) -> None:
        """Gives the memory of idle sequences back, also where no request comes any more."""
        while True:
            await asyncio.sleep(SWEEP_S)
            for served in list(self.models.values()):
                served.sequences.expire(time.monotonic())

    def _make_lease(self, name: str, port: int) -> RegistryLease | None:
        if not self.settings.registry:
            return None
        address = self.settings.advertise or f"{self.settings.host}:{port}"
        return RegistryLease(self.settings.registry, address=address, name=name)

    def _on_first_flip(self) -> None:
        # In a loader's thread.
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._announce_if_ready)

    def _announce_if_ready(self) -> None:
        if self.readiness.ready and self._announcing is None:
            self._announcing = asyncio.create_task(self._announce())

    async def _announce(self) -> None:
        await self.server.set_ready(True)
        if self._lease is not None:
            self._lease.start()
        log.info("ready", port=self.server.port, models=sorted(self.models))


def open_staging(settings: ReplicaSettings) -> Staging:
    """What paces loads, as the settings say."""
    slots = {settings.slots, *(own.slots for own in settings.per_model.values())}
    # A model with one slot is not paced.
    if not settings.pace_staging or 2 not in slots:
        return Staging()
    return Paced(StagingRate(floor=settings.staging_floor_bytes_s), nice=settings.staging_nice)
