"""A gateway's administration in a thread of this process: what it says of rollouts is set by tests.

It knows the candidate from the store as a real one does from its endpoints, and counts anew with
each revision of the candidate's channel.
"""

from __future__ import annotations

import asyncio
import threading

from chassis.errors import NotFound
from chassis.protection import Protection
from chassis.server import RpcServer
from model_store import Store
from protos.headrace.v1 import gateway_pb2

ADMIN = "headrace.v1.GatewayAdmin"
FEEDBACK = "headrace.v1.Feedback"


class FakeGateway:
    """A context manager; `address` is its admin port, where it takes scores too.

    With each look it has seen `requests` more of the candidate, of which `failing` fail, and ten
    times as many of the others, of which none does.
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        requests: int = 50,
        failing: float = 0.0,
        ready: int = 2,
        deaf: bool = False,
    ) -> None:
        self.requests, self.failing, self.ready = requests, failing, ready
        # Whether it never hears of a stage.
        self.deaf = deaf
        self.endpoints = 2
        self.reports: list[gateway_pb2.ReportRequest] = []
        self.looks = 0
        self._store = store
        self._counted: dict[int, int] = {}
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def GetRollout(self, request, _call):
        self.looks += 1
        channel = await asyncio.to_thread(self._store.channel, request.model, "canary")
        if channel is None:
            raise NotFound("MODEL_NOT_FOUND", f"no endpoint serves model {request.model!r}")
        reply = gateway_pb2.GetRolloutResponse(endpoints=self.endpoints)
        if channel.rollout is None or not channel.rollout.running or self.deaf:
            return reply
        reply.candidate_version, reply.revision = channel.version, channel.revision
        reply.share, reply.ready_endpoints = channel.rollout.share, self.ready
        if self.ready and channel.rollout.share:
            self._count(channel.revision)
        ended = self._counted.get(channel.revision, 0)
        failed = round(ended * self.failing)
        reply.candidate.version, reply.candidate.requests = channel.version, ended
        reply.candidate.failed = failed
        reply.control.version, reply.control.requests = 1, 10 * ended
        return reply

    def _count(self, revision: int) -> None:
        self._counted[revision] = self._counted.get(revision, 0) + self.requests

    async def Report(self, request, _call):
        self.reports.append(request)
        return gateway_pb2.ReportResponse(taken=len(request.scores))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = RpcServer("127.0.0.1", 0, protection=Protection())
        for service in (ADMIN, FEEDBACK):
            server.add_service(service, self)
        self.address = f"127.0.0.1:{await server.start()}"
        self._started.set()
        await self._stop.wait()
        await server.stop(0)

    def __enter__(self) -> FakeGateway:
        self._thread.start()
        assert self._started.wait(30)
        return self

    def __exit__(self, *_error) -> None:
        self.close()

    def close(self) -> None:
        """Nobody answers at its address any more. Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
