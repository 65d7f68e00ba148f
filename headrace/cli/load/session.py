"""The order of `headrace load`: check what will be written, run, show, write, report."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from chassis.errors import InvalidArgument
from headrace.cli.load.summary import print_capacity, print_result, trial_sentence
from headrace.cli.load.view import opened_view
from headrace.cli.output import print_json
from headrace.load.capacity import CapacitySearch, Objective, Trial
from headrace.load.latencies import write_log
from headrace.load.plan import LoadPlan
from headrace.load.plot import check_plot, write_plot
from headrace.load.report import capacity_record, result_record, tally_record
from headrace.load.results import LoadResult
from headrace.load.run import measure
from headrace.load.schedule import entries_of, planned, recorded
from headrace.load.series import write_csv
from headrace.load.trace import within, write_trace
from headrace.load.trials import find_capacity

STANDARD_OUTPUT = Path("-")


@dataclass(frozen=True, slots=True)
class Outputs:
    """Files to write; None where nobody asked."""

    # "-" is standard output, in place of the report for a person.
    json: Path | None = None
    csv: Path | None = None
    plot: Path | None = None
    hdr: Path | None = None
    record: Path | None = None

    def check(self) -> None:
        """Raises InvalidArgument (BAD_OUTPUT_FILE, BAD_PLOT), FailedPrecondition (NO_PLOTS)."""
        if self.plot is not None:
            check_plot(self.plot)
        for file in (self.json, self.csv, self.plot, self.hdr, self.record):
            if file is not None and file != STANDARD_OUTPUT and not file.parent.is_dir():
                raise InvalidArgument(
                    "BAD_OUTPUT_FILE", f"{file} cannot be written: there is no such folder"
                )

    def write(self, result: LoadResult) -> None:
        """Writes everything but the JSON."""
        if self.csv is not None:
            _written(self.csv, lambda output: write_csv(result, output))
        if self.hdr is not None:
            tagged = {"total": result.total.latencies}
            tagged |= {name: tally.latencies for name, tally in result.by_class()}
            _written(self.hdr, lambda output: write_log(tagged, result.seconds, output))
        if self.record is not None:
            _written(self.record, lambda output: _write_record(result, output))
        if self.plot is not None:
            write_plot(result, self.plot)


@dataclass(frozen=True, slots=True)
class Search:
    """What `--find-capacity` is asked for."""

    objective: Objective
    first_rate: float
    precision: float
    settle_s: float


def run_load(plan: LoadPlan, outputs: Outputs, search: Search | None) -> int:
    """Runs the command; returns the exit code. Raises what `measure` does."""
    outputs.check()
    return asyncio.run(_searched(plan, outputs, search) if search else _loaded(plan, outputs))


async def _loaded(plan: LoadPlan, outputs: Outputs) -> int:
    with opened_view(f"{plan.model} at {plan.address}") as view:
        result = await measure(plan, on_snapshot=view.on_snapshot, stop=_stop_event())
    outputs.write(result)
    _report(outputs, result_record(result), lambda: print_result(result))
    return 0


async def _searched(plan: LoadPlan, outputs: Outputs, search: Search) -> int:
    with opened_view(f"capacity of {plan.model} at {plan.address}: {search.objective}") as view:
        capacity = await find_capacity(
            plan,
            CapacitySearch(search.first_rate, search.precision),
            search.objective,
            settle_s=search.settle_s,
            on_trial=lambda trial, result: view.say(_told(trial, result)),
            on_snapshot=view.on_snapshot,
            stop=_stop_event(),
        )
    if capacity.best is not None:
        outputs.write(capacity.best)
    _report(outputs, capacity_record(capacity), lambda: print_capacity(capacity))
    return 0 if capacity.search.capacity else 1


def _told(trial: Trial, result: LoadResult) -> str:
    verdict = "held" if trial.met else f"missed ({trial.cause})"
    if trial.inconclusive:
        verdict += ", but the generator could not keep up"
    return f"{trial.rate:.6g}/s: {verdict}; " + trial_sentence(
        tally_record(result.total, result.seconds)
    )


def _report(outputs: Outputs, record: dict[str, Any], print_text: Callable[[], None]) -> None:
    if outputs.json == STANDARD_OUTPUT:
        print_json(record)
        return
    if outputs.json is not None:
        _written(outputs.json, lambda output: _write_json(record, output))
    print_text()


def _write_json(record: dict[str, Any], output: IO[str]) -> None:
    output.write(json.dumps(record, indent=2) + "\n")


def _write_record(result: LoadResult, output: IO[str]) -> None:
    """The schedule, as far as the load came."""
    plan = result.plan
    entries = entries_of(plan, planned(plan, recorded(plan)))
    if not result.complete:
        entries = within(entries, result.seconds)
    write_trace(entries, output)


def _written(file: Path, write: Callable[[IO[str]], None]) -> None:
    with file.open("w", encoding="utf-8") as output:
        write(output)


def _stop_event() -> asyncio.Event:
    """Set by Ctrl-C and SIGTERM; a second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return stop
