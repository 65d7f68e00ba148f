"""`headrace trainer | replica | gateway`: one service in the foreground."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import typer

# The service's own parser takes every flag: `python -m gateway` and `headrace gateway` agree.
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for name, package, text in (
        ("trainer", "trainer_service", "Run the trainer service."),
        ("replica", "inference_service", "Run an inference replica."),
        ("gateway", "gateway", "Run the gateway."),
    ):
        app.command(name, help=text, context_settings=_PASS_ON, add_help_option=False)(
            _command(package)
        )


def _command(package: str) -> Callable[[typer.Context], None]:
    def command(context: typer.Context) -> None:
        main = import_module(f"{package}.__main__").main
        raise typer.Exit(main(context.args))

    return command
