"""Blocking calls to our own services from a command, and their records as rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from chassis.connections import open_channel
from chassis.edge import Stub, error_from_rpc
from chassis.errors import Unavailable
from headrace.access import access_of
from headrace.cli.access import credentials
from headrace.cli.output import Row
from protos.headrace.v1 import gateway_pb2, replica_pb2, trainer_pb2

TRAINER = "headrace.v1.Trainer"
REPLICA = "headrace.v1.Replica"
GATEWAY_ADMIN = "headrace.v1.GatewayAdmin"


@contextmanager
def calling(address: str, service: str) -> Iterator[Stub]:
    """A stub whose failed calls end as our errors; one that cannot connect names the address."""
    access = access_of(credentials())
    channel = open_channel(address, access=access)
    try:
        yield Stub(channel, service, access.metadata)
    except grpc.RpcError as error:
        refusal = error_from_rpc(error)
        if isinstance(refusal, Unavailable) and refusal.reason == "UNAVAILABLE":
            kind = service.rpartition(".")[2]
            raise Unavailable("UNAVAILABLE", f"no {kind} answers at {address}") from None
        raise refusal from None
    finally:
        channel.close()


def state_name(enum: Any, value: int, prefix: str) -> str:
    """ "running" for RUN_STATE_RUNNING."""
    return str(enum.Name(value)).removeprefix(prefix).lower()


def run_row(run: trainer_pb2.Run) -> Row:
    """A training run as one row."""
    return {
        "run": run.run_id,
        "model": run.spec.model,
        "state": state_name(trainer_pb2.RunState, run.state, "RUN_STATE_"),
        "step": run.step,
        "loss": run.loss,
        "metrics": dict(run.metrics),
        "steps_per_s": run.steps_per_s,
        "versions": run.versions_published,
        "last_version": run.last_version,
        "checkpoint_step": run.checkpoint_step,
        "restarts": run.restarts,
        "error": run.error,
    }


def replica_rows(address: str, status: replica_pb2.ReplicaGetStatusResponse) -> list[Row]:
    """A replica's models, a row each."""
    return [
        {
            "replica": address,
            "model": model.model,
            "channel": model.channel,
            "serving": model.serving_version,
            "wanted": model.wanted_version,
            "step": model.step,
            "age_s": model.age_ms / 1000,
            "behind_s": model.behind_ms / 1000,
            "first_reply_s": model.first_reply_ms / 1000,
            "slots": slots_text(model),
            "candidate": candidate_text(model),
            "swaps": model.swaps,
            "engine": engine_text(model),
            "staging_mib_per_s": round(status.staging.bytes_per_s / 2**20, 1),
            "failure": _failure_text(model),
            "publications": model.publications,
            "store_error": status.store_error,
        }
        for model in status.models
    ]


def slots_text(model: replica_pb2.ReplicaModelStatus) -> str:
    """ "v7 serving, v6 standby"."""
    return ", ".join(
        f"v{slot.version} {state_name(replica_pb2.SlotState, slot.state, 'SLOT_STATE_')}"
        for slot in model.slots
    )


def candidate_text(model: replica_pb2.ReplicaModelStatus) -> str:
    """ "v8 ready" or "v8 not ready"; "" without a rollout."""
    if not model.candidate_version:
        return ""
    return f"v{model.candidate_version} {'ready' if model.candidate_ready else 'not ready'}"


def engine_text(model: replica_pb2.ReplicaModelStatus) -> str:
    """ "compiled, bf16" or "exported (not compiled: ...)"."""
    engine = model.engine
    precision = engine.precision if engine.precision not in ("", "published") else ""
    graphs = "graphs" if engine.graphs.sizes else ""
    text = ", ".join(filter(None, (engine.engine, precision, graphs)))
    no_graphs = f"no graphs: {engine.graphs.why_not}" if engine.graphs.why_not else ""
    why_not = "; ".join(filter(None, (engine.why_not, no_graphs)))
    return f"{text} ({why_not})" if why_not else text


def trial_rows(address: str, status: replica_pb2.ReplicaGetStatusResponse) -> list[Row]:
    """What a replica measured to choose engines: a row for each candidate of each model."""
    return [
        {
            "replica": address,
            "model": model.model,
            "engine": trial.engine,
            "precision": trial.precision,
            "forward_us": ", ".join(
                f"{size.rows} rows {size.forward_us:.0f}" for size in trial.sizes
            ),
            "why_not": trial.why_not,
        }
        for model in status.models
        for trial in model.engine.trials
    ]


def _failure_text(model: replica_pb2.ReplicaModelStatus) -> str:
    """The failure of the version wanted, else the newest: one that starts tries older ones too."""
    if not model.failures:
        return ""
    wanted = (each for each in model.failures if each.version == model.wanted_version)
    told = next(wanted, model.failures[0])
    return f"v{told.version} {told.reason}: {told.message}"


def endpoint_row(endpoint: gateway_pb2.EndpointStatus) -> Row:
    """An endpoint as one row."""
    return {
        "endpoint": endpoint.address,
        "state": state_name(gateway_pb2.EndpointState, endpoint.state, "ENDPOINT_STATE_"),
        "inflight_batches": endpoint.inflight_batches,
        "batches": endpoint.batches,
        "failures": endpoint.failures,
        "models": list(endpoint.models),
        "streaming": endpoint.streaming,
        "error": endpoint.error,
    }


def speed_rows(endpoint: gateway_pb2.EndpointStatus) -> list[Row]:
    """What is learned of an endpoint's batches, one row a model."""
    return [
        {
            "endpoint": endpoint.address,
            "model": speed.model,
            "batch_ms": round(speed.batch_ms, 3),
            "row_ms": round(speed.row_ms, 4),
            "slowness": round(speed.slowness, 2),
            "margin": round(speed.margin, 2),
            "ratio": round(speed.ratio, 2),
            "slow": speed.slow,
            "batches": speed.batches,
        }
        for speed in endpoint.speeds
    ]


def tenant_row(tenant: gateway_pb2.TenantStatus) -> Row:
    """A tenant as one row."""
    return {
        "tenant": tenant.tenant or "(none)",
        "queued": tenant.queued_requests,
        "rows": tenant.rows,
    }


def gateway_model_row(model: gateway_pb2.GatewayModelStatus) -> Row:
    """A model at the gateway as one row."""
    return {
        "model": model.model,
        "queued": model.queued_requests,
        "succeeded": model.succeeded,
        "failed": model.failed,
        "rejected": model.rejected,
        "shed": model.shed,
        "batches": model.batches,
        "rows_per_batch": model.rows / model.batches if model.batches else 0.0,
        "best_rows": model.best_batch_rows,
        "rows_per_s": round(model.arriving_rows_per_s, 1),
        "retries": model.retries,
    }
