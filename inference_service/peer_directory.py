"""Who a replica's peers are: addresses, names that DNS turns into several, and the registry.

A source that does not answer leaves its addresses as they were last known.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Sequence

from chassis.errors import InvalidArgument
from chassis.telemetry import logger
from inference_service.registry_redis import read_leases

log = logger(__name__)

LOOK_S = 2.0
REGISTRY = "registry"
_DNS = "dns:"
_ANSWER_S = 5.0


class PeerDirectory:
    """`sources` as the setting `peers` has them; `on_peers` is called with each new list.

    Raises InvalidArgument (BAD_SETTING).
    """

    def __init__(
        self,
        sources: Sequence[str],
        registry: str,
        on_peers: Callable[[Collection[str]], None],
    ) -> None:
        for source in sources:
            _check(source, registry)
        self._known: dict[str, frozenset[str]] = {source: frozenset() for source in sources}
        self._registry = registry
        self._on_peers = on_peers
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Looks now and again."""
        self._task = asyncio.create_task(self._follow(), name="peer-directory")

    def stop(self) -> None:
        """Looks no more."""
        if self._task is not None:
            self._task.cancel()

    async def _follow(self) -> None:
        while True:
            for source in self._known:
                await self._look(source)
            self._on_peers(frozenset().union(*self._known.values()))
            await asyncio.sleep(LOOK_S)

    async def _look(self, source: str) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                self._known[source] = await self._addresses(source)
        except OSError as error:
            # TimeoutError and gaierror are OSErrors.
            log.warning("peers stay as known", source=source, why=type(error).__name__)

    async def _addresses(self, source: str) -> frozenset[str]:
        if source == REGISTRY:
            return await read_leases(self._registry)
        if not source.startswith(_DNS):
            return frozenset({source})
        host, _, port = source.removeprefix(_DNS).rpartition(":")
        found = await asyncio.get_running_loop().getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM
        )
        return frozenset(_joined(str(item[4][0]), port) for item in found)


def _joined(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check(source: str, registry: str) -> None:
    if source == REGISTRY:
        if not registry:
            raise InvalidArgument(
                "BAD_SETTING", "setting replica.peers names the registry; replica.registry is empty"
            )
        return
    host, _, port = source.removeprefix(_DNS).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidArgument(
            "BAD_SETTING",
            f"setting replica.peers has {source[:80]!r}; expected host:port, dns:host:port or "
            f"{REGISTRY}",
        )
