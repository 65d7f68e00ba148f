"""The options in front of a command that say how servers are reached, and `headrace token`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.output import Format, FormatOption, print_record

if TYPE_CHECKING:
    from headrace.access import Credentials

TokenFileOption = Annotated[
    Path | None, typer.Option("--token-file", help="File with a bearer token for servers.")
]
CaOption = Annotated[
    Path | None, typer.Option("--ca", help="PEM file of who signs servers' certificates.")
]
CertOption = Annotated[Path | None, typer.Option("--cert", help="PEM client certificate.")]
KeyOption = Annotated[Path | None, typer.Option("--key", help="Its PEM key.")]

# What the options before the running command said; empty when no command runs.
_given: dict[str, Path] = {}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("token")(token)


def remember(context: typer.Context, **options: Path | None) -> None:
    """Keeps the options for the command that follows, until its end."""
    _given.update({name: value for name, value in options.items() if value is not None})
    # Where commands run inside another program, what one was given is not for the next caller.
    context.call_on_close(_given.clear)


def credentials() -> Credentials:
    """From the options, HEADRACE_CLIENT_* or the section `client` of the settings file.

    Raises InvalidArgument (BAD_SETTING, BAD_TOKEN_FILE).
    """
    from chassis.settings import config_file
    from headrace.access import ClientSettings

    return ClientSettings.load(config_file(None), _given).credentials()


def token(
    name: Annotated[str, typer.Argument(help="Whose token it is.")],
    output: FormatOption = Format.TABLE,
) -> None:
    """Make a bearer token: the token for its holder, the digest for the servers' auth file."""
    from chassis.identities import digest_text, new_token

    made = new_token()
    print_record({"name": name, "token": made, "token_digest": digest_text(made)}, output)
