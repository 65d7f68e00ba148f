"""`headrace channel list | set` and `headrace rollback`."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.output import Format, FormatOption, print_record, print_rows
from headrace.cli.stores import StoreOption, channel_row, opened

channel_app = typer.Typer(help="Named pointers to versions.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(channel_app, name="channel")
    app.command("rollback")(rollback)


@channel_app.command("list")
def list_channels(
    model: str, store: StoreOption = None, output: FormatOption = Format.TABLE
) -> None:
    """List a model's channels."""
    channels = opened(store).channels(model)
    print_rows(
        [channel_row(channel) for channel in channels],
        output,
        empty=f"model {model} has no channels in this store",
    )


@channel_app.command("set")
def set_channel(
    model: str,
    channel: str,
    version: int,
    store: StoreOption = None,
    hold: Annotated[
        bool, typer.Option("--hold", help="Keep publishers from moving it afterwards.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")] = "set by an operator",
    output: FormatOption = Format.TABLE,
) -> None:
    """Point a channel to a version; releases a hold unless --hold is given."""
    opened_store = opened(store)
    current = opened_store.channel(model, channel)
    moved = opened_store.move_channel(
        model,
        channel,
        version,
        expected_revision=current.revision if current else 0,
        held=hold,
        reason=reason,
    )
    print_record(channel_row(moved), output)


def rollback(
    model: str,
    channel: Annotated[str, typer.Option(help="The channel to move back.")] = "stable",
    to: Annotated[
        int | None, typer.Option("--to", help="The version; default: the one before.")
    ] = None,
    store: StoreOption = None,
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")] = "rollback",
    output: FormatOption = Format.TABLE,
) -> None:
    """Move a channel back and hold it there; `channel set` releases it."""
    from model_store.publication import rollback as move_back

    moved = move_back(opened(store), model, channel=channel, to_version=to, reason=reason)
    print_record(channel_row(moved), output)
