"""headrace.v1.Replica: the replica's models, slots and failures, as its operators see them."""

# ruff: noqa: N802 - RPC names are the protocol's.

from __future__ import annotations

import time
from collections.abc import Mapping

from chassis.call import Call
from inference_service.admission import Admission
from inference_service.instance import GraphReport
from inference_service.policy.staging_rate import StagingSnapshot
from inference_service.readiness import Readiness
from inference_service.served import ServedModel
from inference_service.served_snapshot import EngineReport, ServedSnapshot
from inference_service.staging import Staging
from protos.headrace.v1 import replica_pb2

SERVICE = "headrace.v1.Replica"


class ReplicaServicer:
    """Answers from memory; never waits for a load."""

    def __init__(
        self,
        *,
        name: str,
        device: str,
        models: Mapping[str, ServedModel],
        admission: Admission,
        readiness: Readiness,
        staging: Staging,
    ) -> None:
        self._name = name
        self._device = device
        self._models = models
        self._admission = admission
        self._readiness = readiness
        self._staging = staging
        self._started_at = time.monotonic()

    async def GetStatus(
        self, _request: object, _call: Call
    ) -> replica_pb2.ReplicaGetStatusResponse:
        """Every model's state at this moment."""
        snapshots = [served.snapshot() for served in self._models.values()]
        reply = replica_pb2.ReplicaGetStatusResponse(
            replica=self._name,
            device=self._device,
            uptime_s=time.monotonic() - self._started_at,
            inflight=self._admission.requests,
            draining=self._readiness.draining,
            staging=_staging_status(self._staging.snapshot()),
            store_error=next((s.store_error for s in snapshots if s.store_error), ""),
        )
        for snapshot in snapshots:
            _add_model(reply, snapshot)
        return reply


def _staging_status(snapshot: StagingSnapshot) -> replica_pb2.StagingStatus:
    return replica_pb2.StagingStatus(
        bytes_per_s=snapshot.rate,
        calm_p99_ms=snapshot.calm_p99_s * 1000,
        staging_p99_ms=snapshot.staging_p99_s * 1000,
        decreases=snapshot.decreases,
    )


def _add_model(reply: replica_pb2.ReplicaGetStatusResponse, snapshot: ServedSnapshot) -> None:
    model = reply.models.add(
        model=snapshot.model,
        channel=snapshot.channel,
        serving_version=snapshot.serving_version,
        wanted_version=snapshot.wanted_version,
        step=snapshot.step,
        age_ms=snapshot.age_ms,
        behind_ms=snapshot.behind_ms,
        swaps=snapshot.swaps,
        last_load_ms=snapshot.last_load_ms,
        load_step=snapshot.load_step,
        first_reply_ms=snapshot.first_reply_ms,
        revision=snapshot.revision,
        candidate_version=snapshot.candidate_version,
        candidate_ready=snapshot.candidate_ready,
        publications=str(snapshot.irregularity or ""),
    )
    _set_engine(model.engine, snapshot.engine)
    for slot in snapshot.slots:
        model.slots.add(state=slot.state.value, version=slot.version, pins=slot.pins)
    for failure in snapshot.failures:
        model.failures.add(
            version=failure.version,
            reason=failure.reason,
            message=failure.message,
            fail_time_ms=failure.fail_time_ms,
        )


def _set_graphs(target: replica_pb2.GraphStatus, report: GraphReport) -> None:
    counts = report.counts
    target.sizes.extend(report.sizes)
    target.recorded, target.rerecorded = counts.recorded, counts.rerecorded
    target.replays, target.plain = counts.replays, counts.plain
    target.why_not = report.why_not


def _set_engine(target: replica_pb2.EngineStatus, report: EngineReport) -> None:
    target.engine, target.precision = report.engine, report.precision
    target.why_not = report.why_not
    if report.graphs is not None:
        _set_graphs(target.graphs, report.graphs)
    for trial in report.trials:
        added = target.trials.add(
            engine=trial.engine, precision=trial.precision, why_not=trial.why_not
        )
        for rows, seconds in trial.seconds.items():
            added.sizes.add(rows=rows, forward_us=seconds * 1e6)
