"""`headrace status`: the gateway's endpoints and models, and each replica's versions and slots."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.output import Format, FormatOption, print_json, print_rows

if TYPE_CHECKING:
    from protos.headrace.v1 import gateway_pb2, replica_pb2

STATUS_TIMEOUT_S = 5.0


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("status")(status)


def status(
    gateway: Annotated[
        str, typer.Option("--gateway-admin", help="host:port of the gateway's admin port.")
    ] = "127.0.0.1:8003",
    output: FormatOption = Format.TABLE,
) -> None:
    """Show endpoints, models, speeds, overload, versions and failures of a running system."""
    from headrace.cli.calls import (
        GATEWAY_ADMIN,
        calling,
        endpoint_row,
        gateway_model_row,
        replica_rows,
        speed_rows,
        state_name,
        tenant_row,
        trial_rows,
    )
    from protos.headrace.v1 import gateway_pb2

    with calling(gateway, GATEWAY_ADMIN) as stub:
        seen = stub.GetStatus(gateway_pb2.GatewayGetStatusRequest(), timeout=STATUS_TIMEOUT_S)
    endpoints = [endpoint_row(endpoint) for endpoint in seen.endpoints]
    models = [gateway_model_row(model) for model in seen.models]
    speeds = [row for endpoint in seen.endpoints for row in speed_rows(endpoint)]
    tenants = [tenant_row(tenant) for tenant in seen.tenants]
    overload = state_name(gateway_pb2.OverloadStage, seen.overload, "OVERLOAD_STAGE_")
    statuses = _replica_statuses(seen)
    replicas = [row for address, answer in statuses for row in replica_rows(address, answer)]
    trials = [row for address, answer in statuses for row in trial_rows(address, answer)]
    if output is Format.JSON:
        print_json(
            {
                "endpoints": endpoints,
                "models": models,
                "speeds": speeds,
                "tenants": tenants,
                "overload_turns_away": overload,
                "replicas": replicas,
                "engine_trials": trials,
            }
        )
        return
    print_rows(endpoints, output, empty="the gateway has no endpoints")
    typer.echo()
    print_rows(models, output, empty="the gateway knows no model yet")
    typer.echo()
    print_rows(speeds, output, empty="no batch was answered yet")
    if any(tenant.tenant for tenant in seen.tenants):
        typer.echo()
        print_rows(tenants, output, empty="")
    typer.echo()
    typer.echo(f"overload turns away: {overload}")
    typer.echo()
    print_rows(replicas, output, empty="no replica answers")
    if trials:
        typer.echo()
        print_rows(trials, output, empty="")


def _replica_statuses(
    seen: gateway_pb2.GatewayGetStatusResponse,
) -> list[tuple[str, replica_pb2.ReplicaGetStatusResponse]]:
    """The status of each replica among the endpoints that answers."""
    addresses = [endpoint.address for endpoint in seen.endpoints]
    # Side by side: each that is stopped keeps its question until the timeout.
    with ThreadPoolExecutor(max(1, len(addresses))) as threads:
        answers = threads.map(_status_of, addresses)
        pairs = zip(addresses, answers, strict=True)
        return [(address, answer) for address, answer in pairs if answer is not None]


def _status_of(address: str) -> replica_pb2.ReplicaGetStatusResponse | None:
    from chassis.errors import HeadraceError
    from headrace.cli.calls import REPLICA, calling
    from protos.headrace.v1 import replica_pb2

    try:
        with calling(address, REPLICA) as stub:
            request = replica_pb2.ReplicaGetStatusRequest()
            answer: replica_pb2.ReplicaGetStatusResponse = stub.GetStatus(
                request, timeout=STATUS_TIMEOUT_S
            )
    except HeadraceError:
        # Another OIP server, or one that is down: the endpoint table says which.
        return None
    return answer
