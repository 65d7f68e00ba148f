"""The life of an HTTP server beside the gRPC server of the same process: bind, serve, drain, stop.

uvicorn runs on our event loop and leaves signals alone: whoever owns the process tells it when to
stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from chassis.errors import InvalidArgument
from chassis.protection import Protection
from chassis.rest.application import RestApplication
from chassis.rest.connection import HttpConnection, LimitedConfig
from chassis.rest.settings import HttpLimits
from chassis.telemetry import logger
from chassis.tls import server_context

log = logger(__name__)

BACKLOG = 2048
# Seconds between two looks at the clock for the Date header.
DATE_S = 1.0
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


class _Uvicorn(uvicorn.Server):
    """Without handlers of signals; `listening` is set once connections are taken, `stopping` ends
    it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.stopping = asyncio.Event()
        # Seconds that requests get when it stops; those that take longer are cancelled.
        self.grace_s = 0.0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        while not self.stopping.is_set():
            # Renews the Date header.
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DATE_S):
                    await self.stopping.wait()

    async def _wait_tasks_to_complete(self) -> None:
        async with asyncio.timeout(self.grace_s):
            await super()._wait_tasks_to_complete()


class HttpServer:
    """Serves one servicer; the constructor does nothing, `start` binds unless `port` is -1."""

    def __init__(
        self,
        servicer: object,
        host: str,
        port: int,
        *,
        limits: HttpLimits,
        control: bool = False,
        protection: Protection | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._protection = protection or Protection()
        self._app = RestApplication(servicer, limits, control=control, guard=self._protection.guard)
        self._limits = limits
        self._server: _Uvicorn | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int | None:
        """Binds and serves; returns the port, None if it is off.

        Raises InvalidArgument (PORT_IN_USE).
        """
        if self.port < 0:
            return None
        bound = _bound(self.host, self.port)
        self.port = int(bound.getsockname()[1])
        self._server = _Uvicorn(self._config())
        # Owned here and awaited by `stop`.
        self._serving = asyncio.create_task(self._server.serve(sockets=[bound]))
        await self._server.listening.wait()
        if self.host not in LOOPBACK and not self._protection.complete:
            log.warning(
                "HTTP beyond loopback without TLS and identities", host=self.host, port=self.port
            )
        return self.port

    def start_draining(self) -> None:
        """From now on each answer ends its connection, so that clients look for another server."""
        self._app.draining = True

    async def stop(self, grace_s: float) -> None:
        """Takes no more connections and waits up to `grace_s` seconds for requests that run."""
        if self._server is None or self._serving is None:
            return
        self._server.grace_s = grace_s
        self._server.stopping.set()
        await self._serving
        # Those whose time was over have been cancelled; what they answer may still go out.
        await asyncio.gather(*self._server.server_state.tasks, return_exceptions=True)
        for connection in list(self._server.server_state.connections):
            connection.transport.close()
        self._server = self._serving = None

    def _config(self) -> uvicorn.Config:
        config = LimitedConfig(
            self._app,
            http=HttpConnection,
            ws="none",
            loop="none",
            lifespan="off",
            interface="asgi3",
            backlog=BACKLOG,
            log_config=None,
            # What it would say of hostile clients is none of the log's business.
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=self._limits.idle_s,
        )
        config.limits = self._limits
        config.load()
        tls = self._protection.tls
        config.ssl = None if tls is None else server_context(tls)
        return config


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise InvalidArgument(
            "PORT_IN_USE", f"HTTP cannot listen on {host}:{port}: {error.strerror}"
        ) from None
    return listener
