"""`headrace keys new`: keys that sign versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.output import Format, FormatOption, print_record

keys_app = typer.Typer(help="Keys that sign versions.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.add_typer(keys_app, name="keys")


@keys_app.callback()
def keys() -> None:
    """Keys that sign versions."""


@keys_app.command("new")
def new(
    file: Annotated[Path, typer.Argument(help="The private key; the public one is FILE.pub.")],
    output: FormatOption = Format.TABLE,
) -> None:
    """Make an Ed25519 key pair: FILE for publishers, FILE.pub for replicas."""
    from model_store.signing import new_key

    made = new_key(file)
    record = {"key": made.key_id, "private": str(made.private), "public": str(made.public)}
    print_record(record, output)
