"""What the loop looks like from outside: the run, the replicas and the endpoints, polled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from chassis.connections import open_aio_channel
from chassis.edge import Stub
from headrace.cli.calls import GATEWAY_ADMIN, REPLICA, TRAINER
from headrace.cli.up.plan import HOST, Plan
from protos.headrace.v1 import gateway_pb2, replica_pb2, trainer_pb2

POLL_S = 0.5
CALL_TIMEOUT_S = 2.0


@dataclass(slots=True)
class Seen:
    """The newest answers; None where a service did not answer the last time it was asked."""

    run: trainer_pb2.Run | None = None
    replicas: list[replica_pb2.ReplicaGetStatusResponse | None] = field(default_factory=list)
    gateway: gateway_pb2.GatewayGetStatusResponse | None = None
    max_staleness_s: float = 0.0

    def serving_versions(self) -> list[int]:
        """The version each answering replica serves."""
        return [
            model.serving_version
            for replica in self.replicas
            if replica is not None
            for model in replica.models
        ]


class Watch:
    """Polls every service of a plan into `seen`."""

    def __init__(self, plan: Plan, run_id: str) -> None:
        self.seen = Seen(replicas=[None] * plan.replicas)
        self._run_id = run_id
        self._trainer = _Service(plan.trainer_port, TRAINER)
        self._replicas: Sequence[_Service] = [
            _Service(port, REPLICA) for port in plan.replica_ports
        ]
        self._gateway = _Service(plan.admin_port, GATEWAY_ADMIN)

    async def run(self) -> None:
        """Polls until cancelled."""
        while True:
            await self.poll()
            await asyncio.sleep(POLL_S)

    async def poll(self) -> None:
        """Asks every service once, side by side."""
        run, gateway, *replicas = await asyncio.gather(
            self._trainer.ask("GetRun", trainer_pb2.GetRunRequest(run_id=self._run_id)),
            self._gateway.ask("GetStatus", gateway_pb2.GatewayGetStatusRequest()),
            *(
                replica.ask("GetStatus", replica_pb2.ReplicaGetStatusRequest())
                for replica in self._replicas
            ),
        )
        self.seen.run = run.run if run is not None else self.seen.run
        self.seen.gateway = gateway
        self.seen.replicas = replicas
        self._note_staleness()

    @property
    def all_replicas_answer(self) -> bool:
        """Whether every replica answered the newest poll."""
        return all(replica is not None for replica in self.seen.replicas)

    async def trainer_call(self, rpc: str, request: Any, timeout_s: float) -> Any:
        """One call to the trainer service, waiting for it to come up. Raises grpc.RpcError."""
        call = getattr(self._trainer.stub, rpc)
        return await call(request, timeout=timeout_s, wait_for_ready=True)

    async def close(self) -> None:
        """Closes every connection."""
        for service in (self._trainer, self._gateway, *self._replicas):
            await service.channel.close()

    def _note_staleness(self) -> None:
        ages = [
            model.age_ms / 1000
            for replica in self.seen.replicas
            if replica is not None
            for model in replica.models
            if model.serving_version
        ]
        self.seen.max_staleness_s = max([self.seen.max_staleness_s, *ages])


class _Service:
    def __init__(self, port: int, name: str) -> None:
        self.channel = open_aio_channel(f"{HOST}:{port}")
        self.stub = Stub(self.channel, name)

    async def ask(self, rpc: str, request: Any) -> Any:
        try:
            return await getattr(self.stub, rpc)(request, timeout=CALL_TIMEOUT_S)
        except grpc.RpcError:
            return None
