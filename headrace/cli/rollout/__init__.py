"""`headrace rollout start | run | status | promote | abort`: trying a version before it serves."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.access import credentials
from headrace.cli.output import Format, FormatOption, print_record
from headrace.cli.rollout.plan import takes_plan
from headrace.cli.stores import StoreOption, channel_row, known_model, opened

if TYPE_CHECKING:
    from headrace.rollout.gateways import Gateways
    from model_store.records import Channel
    from model_store.rollout import Rollout, RolloutPlan
    from model_store.store import Store

rollout_app = typer.Typer(
    help="Try a version on a growing share of the requests, then promote it or give it up.",
    no_args_is_help=True,
)

GatewayOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gateway",
        "--gateway-admin",
        help="Admin port of every gateway, host:port or dns:host:port (all its addresses); "
        "repeatable. Default: 127.0.0.1:8003.",
    ),
]
ChannelOption = Annotated[str, typer.Option(help="The candidate's channel.")]
AgainstOption = Annotated[
    str, typer.Option(help="The channel whose requests it takes, and that a promotion moves.")
]
PollOption = Annotated[float, typer.Option("--poll-s", min=0.05, help="Seconds between looks.")]
DEFAULT_GATEWAY = "127.0.0.1:8003"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(rollout_app, name="rollout")


@rollout_app.command("start")
@takes_plan
def start(
    model: str,
    version: Annotated[
        int, typer.Argument(help="The candidate; default: the one its channel points to.")
    ] = 0,
    *,
    plan: RolloutPlan,
    channel: ChannelOption = "canary",
    against: AgainstOption = "stable",
    detach: Annotated[
        bool, typer.Option("--detach", help="Begin it and leave it to `headrace rollout run`.")
    ] = False,
    gateway: GatewayOption = None,
    poll_s: PollOption = 1.0,
    store: StoreOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Begin a rollout and carry it out until it ends: code 0 promoted, 1 given up.

    Ctrl-C leaves it running in the store (code 130); `headrace rollout run` goes on with it.
    """
    from headrace.cli.rollout.session import follow, prepare
    from headrace.cli.rollout.view import rollout_row
    from headrace.rollout import beginning

    with opened(store) as opened_store, closing(_gateways(gateway)) as gateways:
        known_model(opened_store, model)
        begun = beginning.start(
            opened_store, model, version, plan=plan, channel=channel, against=against
        )
        code = 0
        if not detach:
            prepare(quiet=True)
            code = follow(opened_store, gateways, begun, poll_s=poll_s)
        ended = opened_store.channel(model, channel) or begun
        if ended.rollout is not None:
            print_record(rollout_row(ended, ended.rollout), output)
    if code:
        raise typer.Exit(code)


@rollout_app.command("run")
@takes_plan
def run(
    models: Annotated[
        list[str] | None, typer.Argument(help="Only these models; default: every one.")
    ] = None,
    auto: Annotated[
        bool,
        typer.Option(
            "--auto",
            help="Begin one by itself, by the plan of these options, for each version newly "
            "published to --channel.",
        ),
    ] = False,
    *,
    plan: RolloutPlan,
    channel: ChannelOption = "canary",
    against: AgainstOption = "stable",
    gateway: GatewayOption = None,
    poll_s: PollOption = 1.0,
    store: StoreOption = None,
) -> None:
    """Carry out the rollouts in the store, as a service, until SIGTERM or Ctrl-C.

    It may be killed and started again at any moment; each decision is a line of its log.
    """
    from headrace.cli.rollout.session import prepare, stopped_by_signals
    from headrace.rollout.controller import Controller

    prepare()
    with opened(store) as opened_store, closing(_gateways(gateway)) as gateways:
        for model in models or ():
            known_model(opened_store, model)
        controller = Controller(
            opened_store,
            gateways,
            models=models or (),
            auto=plan if auto else None,
            candidate=channel,
            against=against,
        )
        with stopped_by_signals() as stop:
            controller.run(stop, poll_s=poll_s)


@rollout_app.command("status")
def status(
    model: str,
    channel: ChannelOption = "canary",
    gateway: GatewayOption = None,
    store: StoreOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show where a rollout stands, what it waits for and how it came there."""
    from headrace.cli.rollout.view import print_status
    from headrace.rollout.standing import look_at

    with opened(store) as opened_store, closing(_gateways(gateway)) as gateways:
        candidate, rollout = _rollout(opened_store, model, channel)
        standing = look_at(opened_store, gateways, candidate, rollout) if rollout.running else None
        base = opened_store.channel(model, rollout.against)
        print_status(candidate, rollout, standing, [base] if base is not None else [], output)


@rollout_app.command("promote")
def promote(
    model: str,
    channel: ChannelOption = "canary",
    despite_hold: Annotated[
        bool, typer.Option("--despite-hold", help="Though the other channel is held; releases it.")
    ] = False,
    despite_newer: Annotated[
        bool,
        typer.Option("--despite-newer", help="Though the other channel is at a newer version."),
    ] = False,
    reason: Annotated[
        str, typer.Option(help="Why; kept in the history.")
    ] = "promoted by an operator",
    store: StoreOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """End a rollout well, now: the other channel moves to the candidate."""
    from model_store.promotion import promote as move

    with opened(store) as opened_store:
        _rollout(opened_store, model, channel)
        moved = move(
            opened_store,
            model,
            channel=channel,
            despite_hold=despite_hold,
            despite_newer=despite_newer,
            reason=reason,
        )
        print_record(channel_row(moved), output)


@rollout_app.command("abort")
def abort(
    model: str,
    channel: ChannelOption = "canary",
    reason: Annotated[
        str, typer.Option(help="Why; kept in the history.")
    ] = "given up by an operator",
    store: StoreOption = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Give a candidate up, now: its share goes back to the version beside it."""
    from model_store.promotion import abort as move

    with opened(store) as opened_store:
        _rollout(opened_store, model, channel)
        moved = move(opened_store, model, channel=channel, reason=reason)
        print_record(channel_row(moved), output)


def _gateways(sources: list[str] | None) -> Gateways:
    """Raises InvalidArgument (BAD_ADDRESS, BAD_TOKEN_FILE)."""
    from headrace.access import access_of
    from headrace.rollout.gateways import Gateways

    return Gateways(sources or [DEFAULT_GATEWAY], access_of(credentials()))


def _rollout(store: Store, model: str, name: str) -> tuple[Channel, Rollout]:
    """The channel and its rollout, running or ended.

    Raises NotFound (MODEL_NOT_FOUND, CHANNEL_NOT_FOUND, NO_ROLLOUT).
    """
    from chassis.errors import NotFound
    from model_store.publication import existing_channel

    known_model(store, model)
    channel = existing_channel(store, model, name)
    if channel.rollout is None:
        raise NotFound(
            "NO_ROLLOUT",
            f"version {channel.version} on channel {name!r} of model {model!r} is not rolled out: "
            "`headrace rollout start` begins one",
        )
    return channel, channel.rollout
