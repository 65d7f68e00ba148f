"""How much the processes and the gateway have done up to one moment, and between two moments."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc

from benchmarks.cpu import busy_seconds, cpu_seconds
from chassis.connections import open_aio_channel
from chassis.edge import Stub
from protos.headrace.v1 import gateway_pb2

GATEWAY_ADMIN = "headrace.v1.GatewayAdmin"
CALL_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Counters:
    """`cpu_s` is seconds of CPU by role, `busy_s` those of the whole machine; `batches` and `rows`
    are what the gateway dispatched."""

    at: float
    cpu_s: Mapping[str, float]
    busy_s: float
    batches: int
    rows: int

    def since(self, earlier: Counters) -> Counters:
        """What was added after `earlier`; `at` becomes the seconds between."""
        return Counters(
            self.at - earlier.at,
            {role: self.cpu_s[role] - earlier.cpu_s[role] for role in self.cpu_s},
            self.busy_s - earlier.busy_s,
            self.batches - earlier.batches,
            self.rows - earlier.rows,
        )


class CounterReader:
    """Reads counters of one model; belongs to the running event loop. Without an admin address,
    batches and rows stay 0."""

    def __init__(self, model: str, processes: Mapping[str, Sequence[int]], admin: str) -> None:
        self._model = model
        self._processes = processes
        self._channel = open_aio_channel(admin) if admin else None

    async def read(self) -> Counters:
        """The counters now. Raises grpc.RpcError, ProcessLookupError."""
        batches, rows = await self._dispatched(self._channel) if self._channel else (0, 0)
        cpu_s = {role: sum(map(cpu_seconds, pids)) for role, pids in self._processes.items()}
        # Ours: what the load itself costs, on the same cores.
        cpu_s["client"] = time.process_time()
        return Counters(time.perf_counter(), cpu_s, busy_seconds(), batches, rows)

    async def close(self) -> None:
        """Closes the connection."""
        if self._channel:
            await self._channel.close()

    async def _dispatched(self, channel: grpc.aio.Channel) -> tuple[int, int]:
        request = gateway_pb2.GatewayGetStatusRequest()
        status = await Stub(channel, GATEWAY_ADMIN).GetStatus(request, timeout=CALL_TIMEOUT_S)
        for model in status.models:
            if model.model == self._model:
                return int(model.batches), int(model.rows)
        return 0, 0
