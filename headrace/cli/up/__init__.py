"""`headrace up`: the whole loop on one machine, each service its own process."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class StoreKind(StrEnum):
    """Which embedded model store."""

    FILE = "file"
    REDIS = "redis"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("up")(up)


def up(
    model: Annotated[
        str, typer.Option(help='The headrace.Model to train and serve, "package.module:Class".')
    ] = "examples.digits:Digits",
    store: Annotated[StoreKind, typer.Option(help="Which model store to start.")] = StoreKind.FILE,
    store_url: Annotated[
        str,
        typer.Option(
            help="A model store that is there already: file://, redis:// or s3://; starts none."
        ),
    ] = "",
    replicas: Annotated[int, typer.Option(min=1, max=64, help="Inference replicas.")] = 2,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Gateway gRPC; 0: a free one.")
    ] = 8001,
    http_port: Annotated[
        int, typer.Option(min=-1, max=65535, help="Gateway OIP over HTTP; 0: a free one, -1: off.")
    ] = 8000,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Gateway metrics over HTTP; 0: a free one.")
    ] = 8002,
    admin_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Gateway admin gRPC; 0: a free one.")
    ] = 8003,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests per second to send.")] = 100.0,
    publish_every: Annotated[
        float, typer.Option(min=0.05, help="Seconds between publications.")
    ] = 2.0,
    steps_per_s: Annotated[
        float, typer.Option(min=0.0, help="Bound of training speed; 0: none.")
    ] = 12.0,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="Stop after this many seconds of traffic; 0: at Ctrl-C.")
    ] = 0.0,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Keep state and logs here; default: a temporary directory."),
    ] = None,
    device: Annotated[str, typer.Option(help="Device of the replicas: cpu or cuda:N.")] = "cpu",
    json_summary: Annotated[
        bool, typer.Option("--json", help="No live view; one JSON summary on standard output.")
    ] = False,
) -> None:
    """Train, publish, hot-reload and serve on this machine, with a live view; Ctrl-C drains.

    Exits 0 if no request failed, 1 if one did, 2 if the loop could not start.
    """
    from headrace.cli.up.loop import run_loop
    from headrace.cli.up.plan import Plan

    plan = Plan(
        model=model,
        store=store.value,
        given_store=store_url,
        replicas=replicas,
        port=port,
        http_port=http_port,
        metrics_port=metrics_port,
        admin_port=admin_port,
        rate=rate,
        publish_every_s=publish_every,
        steps_per_s=steps_per_s,
        seconds=seconds,
        directory=directory,
        device=device,
        json_summary=json_summary,
    )
    raise typer.Exit(run_loop(plan))
