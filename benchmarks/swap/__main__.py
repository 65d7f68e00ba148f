"""`python -m benchmarks.swap`: measures, prints tables, writes JSON; 1 if a swap hurt a request."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from benchmarks.deltas.runs import encoder_files, planned
from benchmarks.deltas.sizes import Sizes, measure
from benchmarks.interrupts import raise_on_interrupt
from benchmarks.report import conditions, table_console, table_of
from benchmarks.swap import measures
from benchmarks.swap.calm import Calm
from benchmarks.swap.floors import Flips, flips
from benchmarks.swap.measures import Arrival, HostReads, Rollbacks, Swaps
from benchmarks.swap.passes import Passes, passes

RESULTS = Path("bench-results/swap.json")
# Of each training run whose versions are measured; `python -m benchmarks.deltas` takes more.
DELTA_VERSIONS = 2
# Publications per size and store; the first of each is not counted.
ARRIVALS = {1: 21, 10: 21, 100: 9, 1000: 4}


@dataclass(slots=True)
class Report:
    """What was measured so far."""

    flips: Flips | None = None
    swaps: Swaps | None = None
    calm: Calm | None = None
    arrivals: list[Arrival] = field(default_factory=list)
    passes: Passes | None = None
    reads: HostReads | None = None
    rollbacks: Rollbacks | None = None
    deltas: dict[str, Sizes] = field(default_factory=dict)

    @property
    def hurt(self) -> bool:
        """Whether a request failed or got an answer that no version gives."""
        return self.swaps is not None and (self.swaps.failed > 0 or self.swaps.wrong > 0)

    def print(self, console: Console) -> None:
        """Tables of what there is."""
        if self.swaps is not None:
            console.print(_swaps_table(self.swaps))
        if self.arrivals:
            console.print(_arrivals_table(self.arrivals))
        console.print(_others_table(self))
        if self.deltas:
            console.print(_deltas_table(self.deltas))


@dataclass(slots=True)
class Run:
    """The measurements in order; each in a directory of its own."""

    options: argparse.Namespace
    report: Report
    progress: Progress
    task: TaskID

    def all(self) -> None:
        """Runs what the options ask for."""
        report, options = self.report, self.options
        if self._wanted("flips"):
            report.flips = flips()
        if self._wanted("swaps"):
            with _directory() as directory:
                report.swaps = measures.swaps_under_load(directory, options.swaps)
        if self._wanted("calm"):
            with _directory() as directory:
                report.calm = measures.calm(
                    directory, options.calm_mib, options.phase_s, options.rounds
                )
        if self._wanted("arrivals"):
            self._arrivals()
        if self._wanted("deltas"):
            for training in planned(encoder=options.encoder and encoder_files() is not None):
                if training.apart == 1:
                    report.deltas[str(training)] = measure(training, DELTA_VERSIONS)
        with _directory() as directory, measures.stores(directory) as urls:
            if self._wanted("passes"):
                report.passes = passes(directory, urls["redis"], 100)
            if self._wanted("reads"):
                report.reads = measures.host_reads(
                    directory / "reads", urls["redis"], options.replicas, 10
                )
            if self._wanted("rollbacks"):
                report.rollbacks = measures.rollbacks(
                    directory / "back", urls["redis"], options.replicas, 10
                )

    def _arrivals(self) -> None:
        for mib in self.options.mib:
            for kind in ("file", "redis"):
                self.progress.update(self.task, description=f"arrivals: {mib} MiB, {kind}")
                with _directory() as directory, measures.stores(directory) as urls:
                    found = measures.arrival(
                        directory, kind, urls[kind], mib, self._count(mib), self.options.pause_s
                    )
                self.report.arrivals.append(found)

    def _count(self, mib: int) -> int:
        usual = next(count for size, count in sorted(ARRIVALS.items(), reverse=True) if mib >= size)
        return self.options.count or usual

    def _wanted(self, name: str) -> bool:
        self.progress.update(self.task, description=name)
        return not self.options.only or name in self.options.only


@contextmanager
def _directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="headrace-swap-"))
    (made / "reads").mkdir()
    (made / "back").mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    table = table_of(*header)
    for line in lines:
        table.add_row(*line)
    return table


def _swaps_table(found: Swaps) -> Table:
    return _table(
        ["swaps", "answers", "failed", "torn or mixed", "versions that answered", "swaps/s", "RSS"],
        [
            [
                f"{found.swaps:,}",
                f"{found.answers:,}",
                str(found.failed),
                str(found.wrong),
                f"{found.versions_answered:,}",
                f"{found.swaps / found.seconds:.1f}",
                f"{found.rss_settled_mib:.0f} -> {found.rss_end_mib:.0f} MiB",
            ]
        ],
    )


def _arrivals_table(arrivals: Sequence[Arrival]) -> Table:
    header = ["store", "MiB", "publish ms", "to first reply ms", "worst ms", "floor ms", "of floor"]
    return _table(
        header,
        [
            [
                found.store,
                f"{found.mib:,}",
                f"{found.publish_ms:.0f}",
                f"{found.first_reply_ms:.0f}",
                f"{found.worst_ms:.0f}",
                f"{found.floor_ms:.0f}",
                f"{found.first_reply_ms / found.floor_ms:.2f}",
            ]
            for found in arrivals
        ],
    )


def _deltas_table(deltas: Mapping[str, Sizes]) -> Table:
    header = ["training run, kB a version", "full", "XOR+zstd", "delta", "of full"]
    return _table(
        header,
        [
            [
                training,
                *(
                    f"{size / 1e3:,.1f}"
                    for size in (found.full_bytes, found.xor_bytes, found.delta_bytes)
                ),
                f"1/{found.full_bytes / found.delta_bytes:.3g}",
            ]
            for training, found in deltas.items()
        ],
    )


def _others_table(report: Report) -> Table:
    lines: list[list[str]] = []
    if report.flips is not None:
        found = report.flips
        spans = f"{found.p50_us:.1f} us, {found.p99_us:.1f} us, {found.most_us:.0f} us"
        lines.append(["flip: p50, p99, longest", spans])
    if report.calm is not None:
        calm = report.calm
        for what, p99_ms in (
            ("without publications", calm.without_ms),
            ("with one a second that no replica follows", calm.unfollowed_ms),
            ("with one a second that all load", calm.publishing_ms),
        ):
            about = f"p99 {what}, {calm.rounds} phases, {calm.requests_per_s:.0f} requests/s"
            lines.append([about, f"{p99_ms:.2f} ms"])
        for what, ratio in (
            ("with publications to without", calm.publishing),
            ("of that the trainer's, on the same cores", calm.unfollowed),
            ("of that the replicas', loading", calm.loading),
        ):
            spread = f"{ratio.ratio:.3f} (90 % of draws {ratio.low:.3f} to {ratio.high:.3f})"
            lines.append([f"p99 {what}", spread])
    if report.passes is not None:
        each = report.passes
        lines.append(
            [
                f"{each.mib} MiB: read to fresh memory, to touched memory; copy; digest",
                f"{each.read_fresh_ms:.0f} ms, {each.read_into_ms:.0f} ms; {each.copy_ms:.0f} ms; "
                f"{each.digest_ms:.0f} ms",
            ]
        )
        both = f"{each.redis_client_ms:.0f} ms, {each.redis_bulk_ms:.0f} ms"
        lines.append([f"{each.mib} MiB of Redis: by the client, by its socket", both])
    if report.reads is not None:
        read = f"{report.reads.times_read:.2f} times its bytes"
        lines.append([f"a version read by {report.reads.replicas} replicas of a host", read])
    if report.rollbacks is not None:
        back = report.rollbacks
        spans = f"{back.p50_ms:.0f} ms, {back.worst_ms:.0f} ms"
        lines.append([f"rollback on {back.replicas} replicas: median, worst of 10", spans])
    return _table(["measured", "found"], lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs; 130 if interrupted, with what there is."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(1)
    raise_on_interrupt()
    about, report, interrupted = conditions("benchmarks.swap"), Report(), False
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=None)
        try:
            Run(options, report, progress, task).all()
        except KeyboardInterrupt:
            interrupted = True
    console = table_console()
    console.print(about, soft_wrap=True)
    report.print(console)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    record = {"conditions": about, **asdict(report)}
    options.json.write_text(json.dumps(record, indent=2) + "\n")
    return 130 if interrupted else int(report.hurt)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swap", description=__doc__)
    add = parser.add_argument
    add("--swaps", type=int, default=1000, help="versions published under load")
    add("--mib", type=int, nargs="+", default=[1, 10, 100, 1000], help="sizes of a version")
    add("--count", type=int, default=0, help="publications per size and store (0: by size)")
    add("--pause-s", type=float, default=0.0, help="rest of callers beside arrivals")
    add("--replicas", type=int, default=4, help="of a host that shares a cache; that roll back")
    add("--calm-mib", type=int, default=10, help="size of the version published each second")
    add("--phase-s", type=float, default=4.0, help="seconds of a phase with or without them")
    add("--rounds", type=int, default=20, help="of phases without and with them")
    names = ["flips", "swaps", "calm", "arrivals", "deltas", "passes", "reads", "rollbacks"]
    add("--only", nargs="+", choices=names, default=[], help="these measurements alone")
    add(
        "--no-encoder",
        dest="encoder",
        action="store_false",
        help="deltas of the digits network alone",
    )
    add("--json", type=Path, default=RESULTS, help="file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
