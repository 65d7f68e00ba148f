"""How a running load is shown: a live frame on a terminal, a line a second elsewhere."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from headrace.load.run import Snapshot

# What the rates and latencies shown are of.
RECENT_S = 2.0
LINE_EVERY_S = 1.0


@dataclass(slots=True)
class Recent:
    """The newest snapshots of one load."""

    snapshots: deque[Snapshot] = field(default_factory=deque)

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Forgets what is too old; a load that begins anew forgets all."""
        if self.snapshots and snapshot.elapsed_s < self.snapshots[-1].elapsed_s:
            self.snapshots.clear()
        self.snapshots.append(snapshot)
        while snapshot.elapsed_s - self.snapshots[0].elapsed_s > RECENT_S:
            self.snapshots.popleft()

    def per_s(self, count: str) -> float:
        """How much a count grew a second, since the oldest snapshot or, without one, the start."""
        last = self.snapshots[-1]
        first_s, before = 0.0, 0
        if len(self.snapshots) > 1:
            first_s = self.snapshots[0].elapsed_s
            before = getattr(self.snapshots[0].progress, count)
        span_s = last.elapsed_s - first_s
        return float((getattr(last.progress, count) - before) / span_s) if span_s else 0.0

    def percentiles_ms(self) -> tuple[float, float]:
        """p50 and p99 of the newest answers, in milliseconds; 0 without any."""
        newest = [latency for item in self.snapshots for latency in item.newest_us]
        if not newest:
            return 0.0, 0.0
        p50, p99 = np.percentile(newest, (50, 99)) / 1e3
        return float(p50), float(p99)

    def sentence(self) -> str:
        """The newest state in one line."""
        progress = self.snapshots[-1].progress
        p50_ms, p99_ms = self.percentiles_ms()
        return (
            f"{self.per_s('offered'):.0f}/s offered  {self.per_s('answered'):.0f}/s answered  "
            f"p50 {p50_ms:.1f} ms  p99 {p99_ms:.1f} ms  {progress.outstanding} under way"
        )


class View(Protocol):
    """Shows snapshots as they come, and words of the command."""

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """A process has reported."""

    def say(self, text: str) -> None:
        """Words that stay."""


@contextmanager
def opened_view(title: str) -> Iterator[View]:
    """A live frame if standard error is a terminal; standard output stays for the report."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(title)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield _Frame(live, title)


class _Lines:
    def __init__(self, title: str) -> None:
        self._recent = Recent()
        self._next_s = 0.0
        self.say(title)

    def on_snapshot(self, snapshot: Snapshot) -> None:
        if self._recent.snapshots and snapshot.elapsed_s < self._recent.snapshots[-1].elapsed_s:
            self._next_s = 0.0
        self._recent.on_snapshot(snapshot)
        if snapshot.elapsed_s < self._next_s:
            return
        self._next_s = snapshot.elapsed_s + LINE_EVERY_S
        progress = snapshot.progress
        self.say(
            f"{snapshot.elapsed_s:.0f} of {snapshot.seconds:.0f} s  {self._recent.sentence()}  "
            f"{progress.failed} failed  {progress.not_sent} not sent"
        )

    def say(self, text: str) -> None:
        sys.stderr.write(text + "\n")


class _Frame:
    def __init__(self, live: Live, title: str) -> None:
        self._live = live
        self._title = title
        self._recent = Recent()

    def on_snapshot(self, snapshot: Snapshot) -> None:
        self._recent.on_snapshot(snapshot)
        self._live.update(frame(self._title, self._recent), refresh=True)

    def say(self, text: str) -> None:
        self._live.console.print(text, highlight=False)


def frame(title: str, recent: Recent) -> RenderableType:
    """One frame: how far, how fast, what fails."""
    snapshot = recent.snapshots[-1]
    progress = snapshot.progress
    far = Table.grid(padding=(0, 1), expand=True)
    far.add_column(width=18)
    far.add_column(ratio=1)
    bar = ProgressBar(total=snapshot.seconds or 1.0, completed=snapshot.elapsed_s)
    far.add_row(f"{snapshot.elapsed_s:.0f} of {snapshot.seconds:.0f} s", bar)
    counts = Text(f"{progress.offered} offered  {progress.answered} answered  ")
    counts.append(f"{progress.good} good", style="green")
    counts.append(f"  {progress.failed} failed", style="red" if progress.failed else "")
    counts.append(f"  {progress.not_sent} not sent", style="red" if progress.not_sent else "")
    content = Group(far, Text(recent.sentence()), counts, Text("Ctrl-C ends it", style="dim"))
    return Panel(content, title=title, title_align="left")
