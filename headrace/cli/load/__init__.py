"""`headrace load`: open-loop load on any server of the protocol, measured from intended times."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli.access import credentials
from headrace.cli.output import Format, FormatOption

if TYPE_CHECKING:
    from headrace.load.arrivals import Arrivals
    from headrace.load.plan import Trace


class ArrivalKind(StrEnum):
    """What `--arrivals` takes."""

    POISSON = "poisson"
    CONSTANT = "constant"
    BURSTS = "bursts"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("load")(load)


def load(
    model: str,
    address: Annotated[
        str, typer.Option("--address", "--gateway", help="host:port of the server.")
    ] = "127.0.0.1:8001",
    rate: Annotated[float, typer.Option(help="Requests per second.")] = 100.0,
    seconds: Annotated[
        float | None, typer.Option(help="How long; 10, or all of a trace, unless given.")
    ] = None,
    arrivals: Annotated[
        ArrivalKind, typer.Option(help="How requests lie in time.")
    ] = ArrivalKind.POISSON,
    burst: Annotated[int, typer.Option(help="Requests of a burst.")] = 10,
    steps: Annotated[
        str, typer.Option(help="Rates over time in place of one: rate:seconds,rate:seconds.")
    ] = "",
    trace: Annotated[
        Path | None, typer.Option(help="Repeat a recorded load: JSONL with at_s and what is known.")
    ] = None,
    warmup: Annotated[float, typer.Option(help="Seconds before what counts.")] = 0.0,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            help="NAME:priority=N,share=X,deadline=50ms,objective=50ms; any of them; repeatable.",
        ),
    ] = None,
    tenants: Annotated[
        list[str] | None,
        typer.Option("--tenant", help="NAME:share=X,token-file=FILE; repeatable."),
    ] = None,
    rows: Annotated[str, typer.Option(help="Rows of a request, or a range such as 1-8.")] = "1",
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", help="name=JSON or name=@file.npy, rows in turn; else random."
        ),
    ] = None,
    shapes: Annotated[
        list[str] | None,
        typer.Option("--shape", help="name=SIZE,SIZE of an input of open sizes, without batch."),
    ] = None,
    version: Annotated[str, typer.Option(help="Ask for this model version.")] = "",
    timeout: Annotated[
        float, typer.Option(help="Seconds a request without a deadline may take.")
    ] = 30.0,
    send_timeout: Annotated[
        bool, typer.Option("--send-timeout", help="Also send Triton's parameter `timeout`.")
    ] = False,
    retries: Annotated[
        int, typer.Option(help="Tries again after RESOURCE_EXHAUSTED and UNAVAILABLE.")
    ] = 0,
    streams: Annotated[
        int, typer.Option(help="ModelStreamInfer streams a process; 0: unary calls.")
    ] = 0,
    connections: Annotated[int, typer.Option(help="Connections a process.")] = 1,
    processes: Annotated[int, typer.Option(help="Load processes.")] = 1,
    max_outstanding: Annotated[
        int, typer.Option(help="Requests under way; what is due beyond is counted, not sent.")
    ] = 10_000,
    interval: Annotated[float, typer.Option(help="Seconds of a line of the time series.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of arrivals, mix and contents.")] = 0,
    find_capacity: Annotated[
        bool,
        typer.Option(
            "--find-capacity", help="Find the highest rate that meets --objective, from --rate on."
        ),
    ] = False,
    objective: Annotated[str, typer.Option(help="What has to hold.")] = "p99<50ms",
    max_failed: Annotated[
        float, typer.Option(help="Part of the requests that may go unanswered meanwhile.")
    ] = 0.01,
    precision: Annotated[float, typer.Option(help="Of the rate found, relative.")] = 0.05,
    settle: Annotated[float, typer.Option(help="Seconds between trials.")] = 1.0,
    output: FormatOption = Format.TABLE,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report as JSON; -: standard output.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the time series.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw it: a .svg, .png or .pdf; needs headrace[plots].")
    ] = None,
    hdr: Annotated[Path | None, typer.Option(help="Write the latencies as an HDR log.")] = None,
    record: Annotated[Path | None, typer.Option(help="Write what was sent, for --trace.")] = None,
) -> None:
    """Put a model under load; latency counts from when a request was meant to be sent.

    Exits 0 if the load ran, whatever came of it; 1 if --find-capacity found no rate; 2 if it could
    not run. Ctrl-C ends it early and reports what was measured.
    """
    from headrace.access import access_of
    from headrace.cli.load.options import parsed_mix, parsed_rows, parsed_shapes
    from headrace.cli.load.session import STANDARD_OUTPUT, Outputs, Search, run_load
    from headrace.cli.predict import read_arrays
    from headrace.load.capacity import Objective
    from headrace.load.plan import LoadPlan

    plan = LoadPlan(
        address=address,
        model=model,
        version=version,
        arrivals=_arrivals(rate, seconds, arrivals, burst, steps, trace),
        mix=parsed_mix(classes or (), tenants or ()),
        rows=parsed_rows(rows),
        shapes=parsed_shapes(shapes or ()),
        inputs=read_arrays(inputs or ()),
        warmup_s=warmup,
        timeout_s=timeout,
        timeout_parameter=send_timeout,
        connections=connections,
        streams=streams,
        processes=processes,
        retries=retries,
        max_outstanding=max_outstanding,
        interval_s=interval,
        seed=seed,
        access=access_of(credentials()),
    )
    if output is Format.JSON and json_file is None:
        json_file = STANDARD_OUTPUT
    outputs = Outputs(json=json_file, csv=csv, plot=plot, hdr=hdr, record=record)
    search = None
    if find_capacity:
        search = Search(Objective.of_text(objective, max_failed), rate, precision, settle)
    raise typer.Exit(run_load(plan, outputs, search))


def _arrivals(
    rate: float,
    seconds: float | None,
    kind: ArrivalKind,
    burst: int,
    steps: str,
    trace: Path | None,
) -> Arrivals | Trace:
    from chassis.errors import InvalidArgument
    from headrace.cli.load.options import parsed_steps
    from headrace.load.arrivals import Arrivals, Spacing, Step
    from headrace.load.plan import Trace

    if trace is not None and steps:
        raise InvalidArgument("BAD_PLAN", "--trace and --steps say two things: leave one out")
    if trace is not None:
        return Trace(trace, seconds)
    if steps and seconds is not None:
        raise InvalidArgument("BAD_PLAN", "--steps says how long: leave --seconds out")
    profile = parsed_steps(steps) if steps else (Step(rate, 10.0 if seconds is None else seconds),)
    return Arrivals(profile, Spacing(kind.value), burst if kind is ArrivalKind.BURSTS else 1)
