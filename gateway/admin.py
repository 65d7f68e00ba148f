"""headrace.v1.GatewayAdmin: reads the gateway's state, takes endpoints out and puts them back."""

from __future__ import annotations

import time
from collections.abc import Callable

from chassis.call import Call
from gateway.catalog import Catalog
from gateway.dispatch.dispatcher import Dispatcher
from gateway.fleet import Fleet
from gateway.ingress.door import Ingress
from gateway.member import Member
from gateway.policy.balance import Balance
from gateway.policy.batching import QueueSnapshot
from gateway.policy.health import State
from gateway.statistics import Ledger
from protos.headrace.v1 import gateway_pb2 as admin

SERVICE = "headrace.v1.GatewayAdmin"

_STATES = {
    State.UNKNOWN: admin.ENDPOINT_STATE_UNKNOWN,
    State.HEALTHY: admin.ENDPOINT_STATE_HEALTHY,
    State.EJECTED: admin.ENDPOINT_STATE_EJECTED,
    State.DRAINING: admin.ENDPOINT_STATE_DRAINING,
}


class AdminServicer:
    """Implements headrace.v1.GatewayAdmin."""

    def __init__(
        self,
        fleet: Fleet,
        balance: Balance,
        dispatcher: Dispatcher,
        ingress: Ingress,
        catalog: Catalog,
        ledger: Ledger,
        *,
        draining: Callable[[], bool],
    ) -> None:
        self._fleet = fleet
        self._balance = balance
        self._dispatcher = dispatcher
        self._ingress = ingress
        self._catalog = catalog
        self._ledger = ledger
        self._draining = draining
        self._started_at = time.monotonic()

    async def GetStatus(  # noqa: N802
        self, _request: admin.GatewayGetStatusRequest, _call: Call
    ) -> admin.GatewayGetStatusResponse:
        """Endpoints, queues and counters now."""
        queues = self._ingress.snapshot().queues
        return admin.GatewayGetStatusResponse(
            endpoints=[self._endpoint(member) for member in self._fleet.members()],
            models=[self._model(name, queues) for name in self._catalog.names()],
            draining=self._draining(),
            uptime_s=time.monotonic() - self._started_at,
        )

    async def DrainEndpoint(  # noqa: N802
        self, request: admin.DrainEndpointRequest, _call: Call
    ) -> admin.DrainEndpointResponse:
        """Raises NotFound (ENDPOINT_NOT_FOUND)."""
        member = self._fleet.member(request.address)
        member.health.on_drain_requested()
        member.changed()
        return admin.DrainEndpointResponse(endpoint=self._endpoint(member))

    async def RestoreEndpoint(  # noqa: N802
        self, request: admin.RestoreEndpointRequest, _call: Call
    ) -> admin.RestoreEndpointResponse:
        """Raises NotFound (ENDPOINT_NOT_FOUND)."""
        member = self._fleet.member(request.address)
        member.health.on_restore_requested()
        member.changed()
        return admin.RestoreEndpointResponse(endpoint=self._endpoint(member))

    def _endpoint(self, member: Member) -> admin.EndpointStatus:
        health = member.health.snapshot()
        odd = sorted(set(member.claims()) - set(self._agreed(member)))
        complaint = f"describes {', '.join(odd)} otherwise than most" if odd else ""
        return admin.EndpointStatus(
            address=member.address,
            state=_STATES[health.state],
            inflight_batches=self._balance.inflight(member.address),
            inflight_rows=self._dispatcher.inflight_rows(member.address),
            batches=member.endpoint.batches,
            failures=member.endpoint.failures,
            models=sorted(member.models),
            streaming=member.endpoint.streaming,
            error=complaint or health.error,
        )

    def _agreed(self, member: Member) -> list[str]:
        return [
            name for name, claimed in member.claims().items() if self._catalog.agrees(name, claimed)
        ]

    def _model(self, name: str, queues: tuple[QueueSnapshot, ...]) -> admin.GatewayModelStatus:
        counters = self._ledger.of(name)
        waiting = [queue for queue in queues if queue.key.model == name]
        return admin.GatewayModelStatus(
            model=name,
            queued_requests=sum(queue.requests for queue in waiting),
            queued_rows=sum(queue.rows for queue in waiting),
            queued_bytes=sum(queue.size_bytes for queue in waiting),
            succeeded=counters.succeeded,
            failed=counters.failed,
            rejected=counters.rejected,
            batches=counters.batches,
            rows=counters.rows,
            retries=counters.retries,
        )
