"""The life of a server process: start, ready, drain on SIGTERM, stop.

SIGTERM and SIGINT: not ready first (health says so, balancers look away), then `drain`, then stop.
A second signal stops at once. What draining means is the service's own affair.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from chassis.connections import DEFAULT_MESSAGE_BYTES, is_loopback, server_options
from chassis.edge import Gate, service_handler
from chassis.errors import HeadraceError, InvalidArgument
from chassis.memory import limit_arenas, return_memory
from chassis.protection import Protection
from chassis.telemetry import logger
from chassis.tls import server_credentials
from protos.pool import POOL

log = logger(__name__)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# The health service's name for "the event loop answers", ready or draining: what a liveness probe
# asks, since a replica that waits for its first version must not be restarted.
LIVENESS = "liveness"
# Everything off but what every server has: limits of streams, headers and time.
UNPROTECTED = Protection()


class RpcServer:
    """A grpc.aio server with health and reflection; `start` binds, the constructor does nothing."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        message_bytes: int = DEFAULT_MESSAGE_BYTES,
        protection: Protection = UNPROTECTED,
    ) -> None:
        self.host = host
        self.port = port
        self._message_bytes = message_bytes
        self._protection = protection
        self._services: dict[str, object] = {}
        self._controlled: set[str] = set()
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    def add_service(self, name: str, servicer: object, *, control: bool = False) -> None:
        """Adds a service of our pool by its full name; before `start`.

        With `control` whoever reaches the port may change the server, unless identities are asked
        for: then those with the role may, here as on every other port.
        """
        self._services[name] = servicer
        if control:
            self._controlled.add(name)

    async def start(self) -> int:
        """Binds and serves, not ready yet; returns the port.

        Raises InvalidArgument (PORT_IN_USE, BAD_TLS_FILE).
        """
        limits, guard = self._protection.limits, self._protection.guard
        server = grpc.aio.server(
            options=server_options(self._message_bytes, limits),
            maximum_concurrent_rpcs=limits.calls or None,
        )
        for name, servicer in self._services.items():
            gate = Gate(guard, name in self._controlled, limits.request_s)
            server.add_generic_rpc_handlers((service_handler(name, servicer, gate),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        POOL.AddSerializedFile(health_pb2.DESCRIPTOR.serialized_pb)
        names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server, pool=POOL)
        try:
            self.port = self._bind(server)
        except RuntimeError:
            raise InvalidArgument(
                "PORT_IN_USE", f"cannot listen on {self.host}:{self.port}: the port is taken"
            ) from None
        await self.set_ready(False)
        await self._health.set(LIVENESS, SERVING)
        await server.start()
        self._server = server
        if guard is not None:
            guard.start()
        warn_if_open(self._protection, self.host, self.port)
        return self.port

    async def set_ready(self, ready: bool) -> None:
        """Sets what grpc.health.v1 answers for the server and for each of its services."""
        for name in ("", *self._services):
            await self._health.set(name, SERVING if ready else NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls, waits up to `grace_s` seconds for running ones, then cancels them."""
        if self._server is not None:
            await self._server.stop(grace_s)
            if self._protection.guard is not None:
                await self._protection.guard.stop()
            self._server = None

    def _bind(self, server: grpc.aio.Server) -> int:
        address = f"{self.host}:{self.port}"
        if self._protection.tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, server_credentials(self._protection.tls))


def warn_if_open(protection: Protection, host: str, port: int) -> None:
    """Logs a warning where strangers may reach a port that does not ask who they are."""
    if not protection.complete and not is_loopback(host):
        log.warning(
            "listening beyond loopback without TLS and authentication: docs/security.md",
            host=host,
            port=port,
            tls=protection.tls is not None,
            authentication=protection.guard is not None and protection.guard.asks,
        )


async def wait_for_stop_signal() -> None:
    """Returns at the first SIGTERM or SIGINT; a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            log.warning("second signal: stopping at once")
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await stop.wait()


async def serve_until_stopped(
    server: RpcServer, *, drain: Callable[[], Awaitable[None]], grace_s: float
) -> None:
    """Waits for a stop signal, then: not ready, `drain`, stop. The server must be started."""
    housekeeping = asyncio.create_task(return_memory())
    try:
        await wait_for_stop_signal()
    finally:
        housekeeping.cancel()
    log.info("draining", port=server.port)
    await server.set_ready(False)
    await drain()
    await server.stop(grace_s)
    log.info("stopped", port=server.port)


def run(main: Coroutine[Any, Any, None]) -> int:
    """Runs a service's main on uvloop; returns the process's exit code.

    A HeadraceError is a sentence on standard error and exit code 2.
    """
    limit_arenas()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    except HeadraceError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
