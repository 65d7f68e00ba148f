"""An OIP server that does with each request what a test says, and remembers all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import contextmanager

from chassis.errors import HeadraceError, NotFound, Unimplemented
from chassis.protection import Protection
from tests.sdk.oip_server import OipServer, Servicer

# Given the number of a request from 0, an error to refuse it with or None.
Refusal = Callable[[int], HeadraceError | None]


class LoadServicer(Servicer):
    """Answers at once unless `refuse` or `hold` say otherwise."""

    def __init__(self, refuse: Refusal | None, hold_s: float | None, configured: bool) -> None:
        super().__init__()
        self._refuse = refuse or (lambda _number: None)
        self._hold_s = hold_s
        self._configured = configured
        self._seen = 0
        # What is held goes on once this is set.
        self._open: asyncio.Event | None = None
        self.identities: list[str] = []

    async def ModelMetadata(self, request, call):
        if request.name == "nosuch":
            raise NotFound("UNKNOWN_MODEL", "model 'nosuch' is unknown")
        return await super().ModelMetadata(request, call)

    async def ModelConfig(self, request, call):
        if not self._configured:
            raise Unimplemented("NO_CONFIG", "this server has no configurations")
        return await super().ModelConfig(request, call)

    async def ModelInfer(self, request, call):
        self.identities.append(call.identity)
        number, self._seen = self._seen, self._seen + 1
        await self._held(request)
        error = self._refuse(number)
        if error is not None:
            self.requests.append(request)
            raise error
        return await super().ModelInfer(request, call)

    async def _replies(self, request):
        number, self._seen = self._seen, self._seen + 1
        await self._held(request)
        error = self._refuse(number)
        if error is not None:
            raise error
        async for reply in super()._replies(request):
            yield reply

    async def _held(self, request) -> None:
        """A stall: from the first request on, nothing is answered for `hold_s` seconds."""
        if request.model_name == "held":
            await asyncio.to_thread(self.release.wait)
        if self._hold_s is None:
            return
        if self._open is None:
            self._open = asyncio.Event()
            asyncio.get_running_loop().call_later(self._hold_s, self._open.set)
        await self._open.wait()


@contextmanager
def serving(
    *,
    refuse: Refusal | None = None,
    hold_s: float | None = None,
    configured: bool = True,
    protection: Protection | None = None,
):
    """A running server; model "held" waits for `servicer.release`."""
    server = OipServer(protection)
    server.servicer = LoadServicer(refuse, hold_s, configured)
    with server:
        try:
            yield server
        finally:
            server.servicer.release.set()


def parameters_of(server: OipServer, name: str, kind: str) -> list[object]:
    """The values of one parameter in all requests, None where it is not there."""
    return [
        getattr(request.parameters[name], kind) if name in request.parameters else None
        for request in server.servicer.requests
    ]
