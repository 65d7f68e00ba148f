"""`headrace store check | gc`: whether a store is whole, and getting rid of what nobody needs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.output import Format, FormatOption, Row, print_json, print_rows
from headrace.cli.stores import StoreOption, opened

if TYPE_CHECKING:
    from collections.abc import Callable

    from model_store.checking import Report
    from model_store.collection import Collected

store_app = typer.Typer(help="Upkeep of the model store.", no_args_is_help=True)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(store_app, name="store")


@store_app.command("check")
def check(
    store: StoreOption = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Only this model; default: the whole store.")
    ] = None,
    sizes_only: Annotated[
        bool,
        typer.Option("--sizes-only", help="Read no blob: see that each is there, and its size."),
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Read every record and blob of the store; code 1 where something is damaged or missing."""
    from model_store.checking import Check

    with opened(store) as opened_store, _progress() as tell:
        report = Check(opened_store, model, sizes_only, tell).run()
    if output is Format.JSON:
        print_json(_report_record(report))
    else:
        _print_report(report, whole_store=model is None)
    if report.findings:
        raise typer.Exit(1)


@store_app.command("gc")
def collect(
    store: StoreOption = None,
    keep: Annotated[int, typer.Option(help="Newest versions of each model that stay.")] = 10,
    grace: Annotated[
        str,
        typer.Option(help="Nothing made or used within this time goes: 90m, 1h, 2d; at least 15m."),
    ] = "1h",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go; change nothing.")
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Remove old versions and the blobs that no version names any more.

    Stays: what a channel points to or would roll back to, the newest versions, what a replica
    holds, what is younger than the grace. Code 1 where something could not be read; what may
    depend on it is left alone.
    """
    from chassis.clock import wall_time_ms
    from model_store.collection import Collection, Wish

    wish = Wish(keep=keep, grace_s=_seconds(grace), dry_run=dry_run)
    with opened(store) as opened_store, _progress() as tell:
        now_ms = wall_time_ms()
        collected = Collection(
            opened_store, wish, now_ms, lambda step, done: tell(step, done, 0)
        ).run()
    if output is Format.JSON:
        print_json(_collected_record(collected, dry_run=dry_run))
    else:
        _print_collected(collected, dry_run=dry_run)
    if collected.problems:
        raise typer.Exit(1)


def _seconds(text: str) -> float:
    """The span that `text` names. Raises InvalidArgument (BAD_SPAN)."""
    from chassis.errors import InvalidArgument

    number, unit = text[:-1], text[-1:]
    if unit in _UNITS and number.isdecimal():
        return float(int(number) * _UNITS[unit])
    raise InvalidArgument(
        "BAD_SPAN", f"{text[:40]!r} is not a span: expected a whole number and s, m, h or d"
    )


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Shows how far it is on a terminal's standard error, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _step, _done, _total: None
        return
    from rich.console import Console

    with Console(stderr=True).status("reading the store") as status:
        yield lambda step, done, total: status.update(
            f"{step}: {done}" + (f" of {total}" if total else "")
        )


def _print_report(report: Report, *, whole_store: bool) -> None:
    typer.echo(
        f"{report.models} models, {report.versions} versions, {report.channels} channels, "
        f"{report.blobs} blobs of {_size(report.blob_bytes)}"
    )
    if whole_store:
        orphaned = sum(blob.size_bytes for blob in report.orphans)
        typer.echo(f"{len(report.orphans)} blobs of {_size(orphaned)} that no version names")
    rows: list[Row] = [
        {
            "what": finding.kind.value,
            "where": finding.what,
            "versions": _suffering(finding.suffering, finding.suffering_count),
            "why": finding.message,
        }
        for finding in report.findings
    ]
    print_rows(rows, Format.TABLE, empty="all whole")


def _suffering(shown: tuple[str, ...], count: int) -> str:
    more = count - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _report_record(report: Report) -> Row:
    return {
        "models": report.models,
        "versions": report.versions,
        "channels": report.channels,
        "blobs": report.blobs,
        "blob_bytes": report.blob_bytes,
        "orphans": [{"digest": blob.digest, "bytes": blob.size_bytes} for blob in report.orphans],
        "findings": [
            {
                "kind": finding.kind.value,
                "what": finding.what,
                "message": finding.message,
                "versions": list(finding.suffering),
                "version_count": finding.suffering_count,
            }
            for finding in report.findings
        ],
    }


def _print_collected(collected: Collected, *, dry_run: bool) -> None:
    rows: list[Row] = [
        {
            "model": one.model,
            "would remove" if dry_run else "removed": _ranges(one.removed),
            "stay": _ranges(sorted(one.kept)),
        }
        for one in collected.models
    ]
    print_rows(rows, Format.TABLE, empty="the store holds no model")
    verb = "would be deleted" if dry_run else "deleted"
    typer.echo(
        f"{collected.deleted_blobs} blobs of {_size(collected.deleted_bytes)} {verb}; "
        f"{collected.named_blobs} in use, {collected.spared_blobs} of "
        f"{_size(collected.spared_bytes)} unused but spared"
    )
    for problem in collected.problems:
        typer.echo(f"problem: {problem}")


def _collected_record(collected: Collected, *, dry_run: bool) -> Row:
    return {
        "dry_run": dry_run,
        "models": [
            {
                "model": one.model,
                "removed": list(one.removed),
                "kept": {str(version): why for version, why in sorted(one.kept.items())},
            }
            for one in collected.models
        ],
        "deleted_blobs": collected.deleted_blobs,
        "deleted_bytes": collected.deleted_bytes,
        "spared_blobs": collected.spared_blobs,
        "spared_bytes": collected.spared_bytes,
        "named_blobs": collected.named_blobs,
        "problems": list(collected.problems),
    }


def _ranges(numbers: list[int] | tuple[int, ...]) -> str:
    """Ascending numbers as a person writes them: 1-7, 9."""
    from model_store.gaps import NO_GAPS

    spans = NO_GAPS.widened(numbers).ranges
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans) or "-"


def _size(count: int) -> str:
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
