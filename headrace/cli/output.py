"""How commands print data: a table for a person, JSON for a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer


class Format(StrEnum):
    """What `-o` takes."""

    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("-o", "--output", help="How to print.")]

Row = dict[str, Any]
PIPE_COLUMNS = 400


def print_rows(rows: Sequence[Row], output: Format, *, empty: str) -> None:
    """Prints rows with the same keys; `empty` is what a person reads where there are none."""
    if output is Format.JSON:
        print_json(list(rows))
    elif not rows:
        typer.echo(empty)
    else:
        _print_table(rows)


def print_record(record: Row, output: Format) -> None:
    """Prints one record: a line a key, or a JSON object."""
    if output is Format.JSON:
        print_json(record)
        return
    width = max(len(key) for key in record)
    for key, value in record.items():
        typer.echo(f"{key.ljust(width)}  {_cell(value)}")


def print_json(value: object) -> None:
    """Prints JSON on standard output."""
    typer.echo(json.dumps(value, indent=2))


def _print_table(rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for key in rows[0]:
        table.add_column(key, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console()
    if not console.is_terminal:
        # A pipe has no width to fit into: a folded digest is of no use to grep.
        console = Console(width=PIPE_COLUMNS)
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_cell(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value)
    return str(value)
