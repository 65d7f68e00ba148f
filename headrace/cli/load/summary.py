"""A measured load as a person reads it: a line for each class and tenant, and what to beware of."""

from __future__ import annotations

from collections.abc import Mapping

import typer

from headrace.cli.output import Format, Row, print_rows
from headrace.load.report import Record, warnings
from headrace.load.results import LoadResult
from headrace.load.tally import Tally
from headrace.load.trials import Capacity


def print_result(result: LoadResult) -> None:
    """The report of one load."""
    total = result.total
    typer.echo(
        f"{result.plan.model} at {result.plan.address}: {total.offered} requests in "
        f"{result.seconds:.1f} s"
    )
    rows = [_row("total", total, result.seconds)]
    groups = [dict(result.by_class()), {name: tally for name, tally in result.by_tenant() if name}]
    for kind, group in zip(("class", "tenant"), groups, strict=True):
        if len(group) > 1:
            rows += [_row(f"{kind} {name}", tally, result.seconds) for name, tally in group.items()]
    print_rows(rows, Format.TABLE, empty="")
    _print_counts("failed by status", total.failed)
    _print_counts("failed by reason", total.reasons)
    _print_counts("retried after status", total.retried)
    _print_counts("answered by version", total.versions)
    lag = result.lag
    typer.echo(
        f"generator: send lag p50 {lag.percentile_s(50) * 1e3:.2f} ms  p99 "
        f"{lag.percentile_s(99) * 1e3:.2f} ms  max {lag.max_s * 1e3:.2f} ms; "
        f"{result.cpu_us_per_request:.0f} us of CPU time a request"
    )
    for warning in warnings(result):
        typer.echo(f"warning: {warning}")


def print_capacity(capacity: Capacity) -> None:
    """The report of a search."""
    search = capacity.search
    if capacity.best is not None:
        print_result(capacity.best)
    if not search.capacity:
        typer.echo(f"capacity: no rate that was tried met {capacity.objective}")
        return
    typer.echo(f"capacity: {search.capacity:.6g} requests/s met {capacity.objective}")
    if search.lowest_miss is None:
        typer.echo("warning: no rate above it was tried: the server may do more")
    elif search.limited_by_generator:
        typer.echo("warning: the generator could not keep up above it: the server may do more")
    if not capacity.complete:
        typer.echo("warning: stopped before the search was at its end")


def trial_sentence(record: Record) -> str:
    """One trial in a line."""
    latency = record["latency_ms"]["p99"]
    return (
        f"{record['offered_per_s']:.6g}/s offered, {record['answered_per_s']:.6g}/s answered, "
        f"p99 {'-' if latency is None else f'{latency:.1f} ms'}"
    )


def _row(name: str, tally: Tally, seconds: float) -> Row:
    latencies = tally.latencies
    percentiles = {
        f"p{percentile:g} ms": latencies.percentile_s(percentile) * 1e3
        for percentile in (50, 90, 99, 99.9)
    }
    return {
        "": name,
        "offered/s": tally.offered / seconds if seconds else 0.0,
        "answered/s": tally.answered / seconds if seconds else 0.0,
        "good/s": tally.good / seconds if seconds else 0.0,
        "good %": 100 * tally.good / tally.offered if tally.offered else 0.0,
        **percentiles,
        "max ms": latencies.max_s * 1e3,
        "failed": tally.failures,
        "shed": tally.shed,
        "late": tally.deadline_exceeded,
        "not sent": tally.not_sent,
        "retries": tally.retries,
    }


def _print_counts(what: str, counts: Mapping[str, int]) -> None:
    if counts:
        parts = ", ".join(f"{name} {count}" for name, count in counts.items())
        typer.echo(f"{what}: {parts}")
