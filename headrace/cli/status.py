"""`headrace status`: the gateway's endpoints and models, and each replica's versions and slots."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.output import Format, FormatOption, Row, print_json, print_rows

if TYPE_CHECKING:
    from protos.headrace.v1 import gateway_pb2

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
        speed_rows,
        state_name,
        tenant_row,
    )
    from protos.headrace.v1 import gateway_pb2

    with calling(gateway, GATEWAY_ADMIN) as stub:
        seen = stub.GetStatus(gateway_pb2.GatewayGetStatusRequest(), timeout=STATUS_TIMEOUT_S)
    endpoints = [endpoint_row(endpoint) for endpoint in seen.endpoints]
    models = [gateway_model_row(model) for model in seen.models]
    speeds = [row for endpoint in seen.endpoints for row in speed_rows(endpoint)]
    tenants = [tenant_row(tenant) for tenant in seen.tenants]
    overload = state_name(gateway_pb2.OverloadStage, seen.overload, "OVERLOAD_STAGE_")
    replicas = _replica_rows(seen)
    if output is Format.JSON:
        print_json(
            {
                "endpoints": endpoints,
                "models": models,
                "speeds": speeds,
                "tenants": tenants,
                "overload_turns_away": overload,
                "replicas": replicas,
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


def _replica_rows(seen: gateway_pb2.GatewayGetStatusResponse) -> list[Row]:
    addresses = [endpoint.address for endpoint in seen.endpoints]
    # Side by side: each that is stopped keeps its question until the timeout.
    with ThreadPoolExecutor(max(1, len(addresses))) as threads:
        return [row for rows in threads.map(_rows_of, addresses) for row in rows]


def _rows_of(address: str) -> list[Row]:
    from chassis.errors import HeadraceError
    from headrace.cli.calls import REPLICA, calling, replica_rows
    from protos.headrace.v1 import replica_pb2

    try:
        with calling(address, REPLICA) as stub:
            request = replica_pb2.ReplicaGetStatusRequest()
            answer: Any = stub.GetStatus(request, timeout=STATUS_TIMEOUT_S)
    except HeadraceError:
        # Another OIP server, or one that is down: the endpoint table says which.
        return []
    return replica_rows(address, answer)
