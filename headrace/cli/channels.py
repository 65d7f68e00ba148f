"""`headrace channel list | set` and `headrace rollback`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.output import Format, FormatOption, print_record, print_rows
from headrace.cli.stores import StoreOption, channel_row, opened

if TYPE_CHECKING:
    from model_store.records import Channel
    from model_store.store import Store

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
    """Move a channel back and hold it there; `channel set` releases it.

    A rollout against the channel is given up.
    """
    from model_store.publication import rollback as move_back

    opened_store = opened(store)
    moved = move_back(opened_store, model, channel=channel, to_version=to, reason=reason)
    # After the hold, which keeps controllers from promoting meanwhile.
    _give_up_rollouts(opened_store, moved)
    print_record(channel_row(moved), output)


def _give_up_rollouts(store: Store, moved: Channel) -> None:
    """Ends those against `moved`: whoever goes back wants no newer version tried on callers."""
    from chassis.errors import FailedPrecondition
    from model_store.promotion import abort

    for channel in store.channels(moved.model):
        rollout = channel.rollout
        if rollout is None or not rollout.running or rollout.against != moved.name:
            continue
        why = f"channel {moved.name} was rolled back to version {moved.version}"
        try:
            abort(store, moved.model, channel=channel.name, reason=why)
        except FailedPrecondition:
            # A controller that saw the hold was faster.
            continue
        typer.echo(
            f"the rollout of version {channel.version} on channel {channel.name} is given up",
            err=True,
        )
