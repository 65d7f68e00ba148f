"""headrace.v1.GatewayAdmin: reads the gateway's state, takes endpoints out and puts them back."""

from __future__ import annotations

import time
from collections.abc import Callable

from chassis.call import Call
from gateway.arms import Arm, Arms, Shadowed, Sum
from gateway.catalog import Catalog
from gateway.dispatch.dispatcher import Dispatcher
from gateway.fleet import Fleet
from gateway.ingress.door import Ingress
from gateway.member import Member
from gateway.policy.balance import Balance
from gateway.policy.batching import QueueSnapshot
from gateway.policy.health import State
from gateway.policy.overload import Stage
from gateway.policy.rollout import Rollouts
from gateway.policy.schedule import Schedule
from gateway.statistics import Ledger
from protos.headrace.v1 import gateway_pb2 as admin

SERVICE = "headrace.v1.GatewayAdmin"
MILLISECONDS = 1000

_STATES = {
    State.UNKNOWN: admin.ENDPOINT_STATE_UNKNOWN,
    State.HEALTHY: admin.ENDPOINT_STATE_HEALTHY,
    State.EJECTED: admin.ENDPOINT_STATE_EJECTED,
    State.DRAINING: admin.ENDPOINT_STATE_DRAINING,
}

_STAGES = {
    Stage.NOBODY: admin.OVERLOAD_STAGE_NOBODY,
    Stage.LOWER_CLASSES: admin.OVERLOAD_STAGE_LOWER_CLASSES,
    Stage.TENANTS_OVER_SHARE: admin.OVERLOAD_STAGE_TENANTS_OVER_SHARE,
    Stage.EVERYBODY: admin.OVERLOAD_STAGE_EVERYBODY,
}


class AdminServicer:
    """Implements headrace.v1.GatewayAdmin."""

    def __init__(
        self,
        fleet: Fleet,
        balance: Balance,
        dispatcher: Dispatcher,
        schedule: Schedule,
        ingress: Ingress,
        catalog: Catalog,
        ledger: Ledger,
        *,
        rollouts: Rollouts,
        arms: Arms,
        draining: Callable[[], bool],
    ) -> None:
        self._fleet = fleet
        self._balance = balance
        self._dispatcher = dispatcher
        self._schedule = schedule
        self._ingress = ingress
        self._catalog = catalog
        self._ledger = ledger
        self._rollouts = rollouts
        self._arms = arms
        self._draining = draining
        self._started_at = time.monotonic()

    async def GetStatus(  # noqa: N802
        self, _request: admin.GatewayGetStatusRequest, _call: Call
    ) -> admin.GatewayGetStatusResponse:
        """Endpoints, queues and counters now."""
        now, waiting = time.monotonic(), self._ingress.snapshot()
        return admin.GatewayGetStatusResponse(
            endpoints=[self._endpoint(member) for member in self._fleet.members()],
            models=[self._model(name, waiting.queues) for name in self._catalog.names()],
            draining=self._draining(),
            uptime_s=now - self._started_at,
            overload=_STAGES[self._ingress.overload(now)],
            tenants=[
                admin.TenantStatus(tenant=name, queued_requests=tenant.waiting, rows=tenant.rows)
                for name, tenant in sorted(waiting.tenants.items())
            ],
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

    async def GetRollout(  # noqa: N802
        self, request: admin.GetRolloutRequest, _call: Call
    ) -> admin.GetRolloutResponse:
        """What was seen in the present stage. Raises NotFound (MODEL_NOT_FOUND)."""
        self._catalog.model(request.model)
        figures = self._arms.of(request.model)
        endpoints, ready = self._rollouts.endpoints(request.model)
        if figures is None:
            return admin.GetRolloutResponse(endpoints=endpoints)
        return admin.GetRolloutResponse(
            candidate_version=figures.stage.version,
            revision=figures.stage.revision,
            share=figures.stage.share,
            endpoints=endpoints,
            ready_endpoints=ready,
            candidate=_arm(figures.candidate),
            control=_arm(figures.control),
            shadow=_shadow(figures.shadow) if figures.shadow.batches else None,
        )

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
            speeds=self._speeds(member.address),
        )

    def _speeds(self, address: str) -> list[admin.ModelSpeed]:
        return [
            admin.ModelSpeed(
                model=model,
                batch_ms=speed.latency.alpha_s * MILLISECONDS,
                row_ms=speed.latency.beta_s * MILLISECONDS,
                slowness=speed.latency.slowness,
                margin=speed.latency.margin,
                ratio=speed.ratio,
                slow=speed.slow,
                batches=speed.latency.batches,
            )
            for (endpoint, model), speed in sorted(self._schedule.speeds().items())
            if endpoint == address
        ]

    def _agreed(self, member: Member) -> list[str]:
        return [
            name for name, claimed in member.claims().items() if self._catalog.agrees(name, claimed)
        ]

    def _model(self, name: str, queues: tuple[QueueSnapshot, ...]) -> admin.GatewayModelStatus:
        counters = self._ledger.of(name)
        waiting = [queue for queue in queues if queue.key.model == name]
        pace = self._schedule.snapshot().get(name)
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
            shed=counters.shed,
            arriving_rows_per_s=pace.rate if pace else 0.0,
            endpoints_by_speed=pace.fleet.replicas if pace else 0.0,
            best_batch_rows=pace.best if pace else 0,
        )


def _arm(arm: Arm) -> admin.ArmStatus:
    return admin.ArmStatus(
        version=arm.version,
        requests=arm.requests,
        failed=arm.failed,
        slowness=_scores(arm.slowness),
        latency_ms=_scores(arm.latency_ms),
        scores={metric: _scores(scores) for metric, scores in arm.scores.items()},
    )


def _shadow(shadowed: Shadowed) -> admin.ShadowStatus:
    return admin.ShadowStatus(
        batches=shadowed.batches,
        failed=shadowed.failed,
        rows=shadowed.rows,
        changed_rows=shadowed.changed_rows,
        difference=_scores(shadowed.difference),
        max_difference=shadowed.max_difference,
    )


def _scores(added: Sum) -> admin.Scores:
    return admin.Scores(count=added.count, sum=added.sum, sum_squares=added.sum_squares)
