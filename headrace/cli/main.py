"""The command line: which commands there are, and how an error becomes a sentence and a code.

Exit codes: 0 done, 1 done but something asked for failed, 2 wrong input or nothing could be done.
Commands import what they need when they run: `headrace --help` starts neither torch nor grpc.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated

import typer

from headrace.cli import (
    access,
    channels,
    keys,
    load,
    predict,
    rollout,
    services,
    status,
    train,
    up,
    upkeep,
    versions,
)

app = typer.Typer(
    name="headrace",
    help="Keeps a PyTorch model training and serves its newest good weights over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
up.register(app)
services.register(app)
versions.register(app)
channels.register(app)
rollout.register(app)
upkeep.register(app)
predict.register(app)
load.register(app)
status.register(app)
train.register(app)
access.register(app)
keys.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(import_module("headrace").__version__)
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
    token_file: access.TokenFileOption = None,
    ca: access.CaOption = None,
    cert: access.CertOption = None,
    key: access.KeyOption = None,
) -> None:
    """Keeps a PyTorch model training and serves its newest good weights over gRPC."""
    access.remember(context, token_file=token_file, ca=ca, cert=cert, key=key)


def main() -> int:
    """Runs the command line; an error of ours is one sentence on standard error and code 2."""
    try:
        app()
    except Exception as error:
        refusal = getattr(error, "message", None)
        if refusal is None or not hasattr(error, "reason"):
            raise
        sys.stderr.write(f"error: {refusal}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
