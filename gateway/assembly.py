"""A gateway put together from its settings, and its life: look around, serve, drain.

Endpoints are looked at before the port is bound, so that a client that reconnects to a restarted
gateway is not told that its model does not exist.
"""

from __future__ import annotations

import asyncio
import secrets
import time

from chassis.oip import SERVICE
from chassis.protection import protection_of
from chassis.rest.server import HttpServer
from chassis.server import RpcServer, serve_until_stopped
from chassis.telemetry import logger, serve_metrics
from chassis.tracing import Tracing
from gateway import admin, feedback, metrics
from gateway.arms import Arms
from gateway.caller_stream import StreamBounds
from gateway.catalog import Catalog
from gateway.discovery import Directory, StaticDirectory
from gateway.dispatch.comparison import Comparison
from gateway.dispatch.dispatcher import Dispatcher, Spans
from gateway.endpoint import Link
from gateway.fleet import Fleet
from gateway.ingress.door import Ingress
from gateway.ingress.priority import Priorities
from gateway.ingress.request import Request
from gateway.member import Checks, Member
from gateway.plane import DataPlane
from gateway.policy.balance import Balance
from gateway.policy.batching import Backlog
from gateway.policy.retry import RetryPolicy
from gateway.policy.rollout import Rollouts
from gateway.policy.schedule import Queues, Schedule, Tuning
from gateway.policy.sequences import ORIGIN_BITS, Sequences
from gateway.policy.speed import Speeds
from gateway.policy.way import Way
from gateway.registry_redis import RedisDirectory
from gateway.repository import Repository, Timeouts
from gateway.servicer import InferenceServicer
from gateway.settings import GatewaySettings
from gateway.statistics import Ledger

log = logger(__name__)
MILLISECONDS = 1000
# What the drain did not finish is cut off soon: open health watches would else hold the server.
LAST_GRACE_S = 0.5
# gRPC cancels calls that it has read but not handed over when a server stops; a client cannot tell
# whether they ran. Refused a little longer, callers learn UNAVAILABLE and go elsewhere.
REFUSE_S = 0.2


class Gateway:
    """All parts of one gateway; made on the running loop, `run` serves."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._directory = directory_of(settings)
        self._catalog = Catalog(max_batch_size=settings.max_batch_size)
        self._balance = Balance(max_inflight=settings.max_inflight_batches)
        self._generations = Balance(max_inflight=settings.max_inflight_generations)
        self._tracing = Tracing("gateway")
        self._ledger = Ledger(self._tracing)
        self._sequences = Sequences(
            max_sequences=settings.max_sequences,
            idle_s=settings.sequence_idle_s,
            origin=secrets.randbits(ORIGIN_BITS),
        )
        metrics.SEQUENCES.set_function(self._sequences.__len__)
        self._ingress = Ingress(
            _backlog(settings),
            self._ledger,
            self._sequences,
            late_priority=_late_priority(settings),
        )
        metrics.OVERLOAD.set_function(lambda: self._ingress.overload(time.monotonic()))
        self._rollouts = Rollouts()
        self._arms = Arms(self._rollouts.current)
        self._fleet = Fleet(
            self._catalog,
            self._balance,
            self._generations,
            Checks(settings.health_interval_s, settings.health_timeout_s),
            link=Link(settings.max_message_bytes, settings.endpoint_access()),
            models=settings.models,
            rollouts=self._rollouts,
            monotonic=settings.monotonic_versions,
        )
        self._schedule = self.make_schedule(self._ingress, self._balance, _tuning(settings))
        self._dispatcher = Dispatcher(
            self._ingress,
            self._fleet,
            balance=self._balance,
            generations=self._generations,
            schedule=self._schedule,
            sequences=self._sequences,
            retry=RetryPolicy(max_attempts=settings.max_attempts),
            ledger=self._ledger,
            spans=Spans(settings.attempt_timeout_s, settings.unavailable_wait_s, settings.hedging),
            comparison=Comparison(self._arms),
            on_newer=self._fleet.look_again if settings.monotonic_versions else None,
        )
        objectives = settings.objectives(self._schedule.way)
        self._memory = settings.open_shared_memory()
        self._plane = DataPlane(
            self._ingress,
            self._catalog,
            self._fleet,
            self._ledger,
            wake=self._dispatcher.wake,
            default_timeout_s=settings.default_timeout_s,
            generation_timeout_s=settings.generation_timeout_s,
            stream_bounds=StreamBounds(
                settings.max_stream_requests,
                settings.max_stream_bytes,
                settings.max_stream_responses,
            ),
            priorities=Priorities(settings.priority_levels, settings.default_priority_level),
            objectives=objectives,
            limits=settings.limits(settings.max_message_bytes),
            memory=self._memory,
            rollouts=self._rollouts,
        )
        self._repository = Repository(
            self._fleet,
            self._catalog,
            Timeouts(settings.load_timeout_s, settings.health_timeout_s),
            waiting=self._ingress.waiting_of,
        )
        self._fleet.attend(self._repository)
        self._fleet.attend(_Surveyor(self._schedule.way))
        self._servicer = InferenceServicer(
            self._plane,
            self._catalog,
            self._fleet,
            self._ledger,
            repository=self._repository,
            tracing=self._tracing,
            memory=self._memory,
        )
        protection = protection_of(settings)
        self._server = RpcServer(
            settings.host,
            settings.port,
            message_bytes=settings.max_message_bytes,
            protection=protection,
        )
        self._server.add_service(SERVICE, self._servicer, control=settings.allow_control)
        self._server.add_service(
            feedback.SERVICE, feedback.FeedbackServicer(self._catalog, self._arms)
        )
        self._http = HttpServer(
            self._servicer,
            settings.host,
            settings.http_port,
            limits=settings.http_limits(settings.max_message_bytes),
            control=settings.allow_control,
            protection=protection,
        )
        self._admin = RpcServer(
            settings.admin_host,
            max(settings.admin_port, 0),
            protection=protection.without_quotas(),
        )
        self._admin.add_service(admin.SERVICE, self._admin_servicer())
        self._admin.add_service(SERVICE, self._servicer, control=True)
        self._changed = asyncio.Event()
        self._fleet.subscribe(self._dispatcher.on_endpoints)
        self._fleet.subscribe(self._changed.set)

    def make_schedule(self, queues: Queues, balance: Balance, tuning: Tuning) -> Schedule:
        """What decides on batches; another one may be put here to be measured."""
        return Schedule(queues, balance, Speeds(), tuning)

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then drains. Raises InvalidArgument (PORT_IN_USE)."""
        try:
            async with asyncio.TaskGroup() as tasks:
                background = [
                    tasks.create_task(self._fleet.run(self._directory)),
                    tasks.create_task(self._follow_readiness()),
                ]
                await self._start()
                await serve_until_stopped(self._server, drain=self._drain, grace_s=LAST_GRACE_S)
                await self._admin.stop(0)
                await self._repository.close()
                for task in background:
                    task.cancel()
        except BaseExceptionGroup as group:
            # One cause, told as itself: a taken port is a sentence, not a traceback.
            raise group.exceptions[0] from None

    async def _start(self) -> None:
        settings = self._settings
        await self._fleet.wait_looked(settings.health_timeout_s)
        port = await self._server.start()
        http_port = await self._http.start()
        admin_port = metrics_port = None
        if settings.admin_port >= 0:
            admin_port = await self._admin.start()
            await self._admin.set_ready(True)
        if settings.metrics_port >= 0:
            metrics_port = serve_metrics(settings.host, settings.metrics_port)
        self._changed.set()
        log.info(
            "serving",
            port=port,
            http_port=http_port,
            admin_port=admin_port,
            metrics_port=metrics_port,
        )

    async def _follow_readiness(self) -> None:
        """Keeps grpc.health.v1 saying what ServerReady says."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._server.set_ready(self._servicer.ready)

    async def _drain(self) -> None:
        settings = self._settings
        self._servicer.start_draining()
        self._http.start_draining()
        await asyncio.sleep(min(settings.drain_notice_s, settings.drain_s))
        self._ingress.close()
        try:
            async with asyncio.timeout(max(settings.drain_s - settings.drain_notice_s, 0)):
                await self._dispatcher.wait_idle()
                self._plane.end_streams()
                await self._plane.wait_streams_ended()
        except TimeoutError:
            log.warning("drain ended with requests unanswered", **self._unanswered())
        await asyncio.sleep(REFUSE_S)
        await self._http.stop(LAST_GRACE_S)

    def _unanswered(self) -> dict[str, int]:
        inflight = sum(self._balance.snapshot().inflight.values())
        return {"queued": self._ingress.snapshot().requests, "inflight_batches": inflight}

    def _admin_servicer(self) -> admin.AdminServicer:
        return admin.AdminServicer(
            self._fleet,
            self._balance,
            self._dispatcher,
            self._schedule,
            self._ingress,
            self._catalog,
            self._ledger,
            rollouts=self._rollouts,
            arms=self._arms,
            draining=lambda: self._servicer.draining,
        )


def directory_of(settings: GatewaySettings) -> Directory:
    """The directory that the settings name. Raises InvalidArgument."""
    if settings.registry:
        return RedisDirectory(settings.registry, settings.endpoints)
    return StaticDirectory(settings.endpoints)


def _backlog(settings: GatewaySettings) -> Backlog[Request]:
    return Backlog(
        max_requests=settings.max_queue_requests,
        max_bytes=settings.max_queue_bytes,
        max_batch_bytes=settings.max_message_bytes,
        class_requests=settings.class_bounds(),
        weights=settings.weights(),
        exact_age=settings.max_queue_delay_ms > 0,
    )


def _late_priority(settings: GatewaySettings) -> int:
    """The class behind all others, for what missed its objective; 0 for none."""
    return settings.priority_levels + 1 if settings.timeout_action == "delay" else 0


class _Surveyor:
    """Measures the way to healthy endpoints; a `fleet.Attendant`."""

    def __init__(self, way: Way) -> None:
        self._way = way

    def on_checked(self, member: Member) -> None:
        """As `Attendant.on_checked`."""
        self._way.on_way(member.way_s)

    def on_left(self, address: str) -> None:
        """As `Attendant.on_left`."""


def _tuning(settings: GatewaySettings) -> Tuning:
    return Tuning(
        delay_s=settings.max_queue_delay_ms / MILLISECONDS,
        preferred=settings.preferred_sizes(),
    )
