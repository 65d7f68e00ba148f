"""Carrying rollouts out in a process of its own: signals, logs, what a person sees meanwhile.

SIGTERM and Ctrl-C end it after the look that runs; the rollout stays as it is in the store, and
whoever comes next goes on. A second signal ends it at once.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from chassis.errors import HeadraceError
from chassis.settings import ProcessSettings, arm_failpoints, config_file
from chassis.telemetry import configure_logs
from headrace.cli.rollout.view import progress_line
from headrace.policy.rollout import Wait
from headrace.rollout.controller import Controller
from headrace.rollout.gateways import Gateways
from headrace.rollout.standing import Standing
from model_store.records import Channel
from model_store.rollout import RolloutState
from model_store.store import Store

PROMOTED, ABORTED, INTERRUPTED = 0, 1, 130


def prepare(*, quiet: bool = False) -> None:
    """Logs and failpoints, as every process has them; `quiet` leaves out what a view shows."""
    arm_failpoints()
    settings = ProcessSettings.load(config_file(None))
    if quiet:
        settings = settings.model_copy(update={"log_level": "warning"})
    configure_logs("rollout", settings)


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that the first SIGTERM or SIGINT sets."""
    stop = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow(store: Store, gateways: Gateways, begun: Channel, *, poll_s: float) -> int:
    """Carries out the rollout in `begun` until it ends; returns the exit code."""
    with stopped_by_signals() as stop, _Progress() as progress:
        controller = Controller(store, gateways, models=[begun.model], told=progress.show)
        while not stop.is_set():
            controller.look()
            code = _ended(store, begun)
            if code is not None:
                return code
            stop.wait(poll_s)
    typer.echo(
        f"the rollout goes on without a controller: headrace rollout run {begun.model}", err=True
    )
    return INTERRUPTED


def _ended(store: Store, begun: Channel) -> int | None:
    """The exit code of a rollout that is over; None while it runs."""
    try:
        current = store.channel(begun.model, begun.name)
    except HeadraceError:
        # The controller has told it.
        return None
    rollout = None if current is None else current.rollout
    if current is None or rollout is None or current.version != begun.version:
        typer.echo(f"channel {begun.name} was moved: the rollout is over", err=True)
        return ABORTED
    if rollout.running:
        return None
    return PROMOTED if rollout.state is RolloutState.PROMOTED else ABORTED


class _Progress:
    """A line that changes on a terminal's standard error; elsewhere a line for what is new."""

    def __init__(self) -> None:
        self._said: object = None
        self._status = None
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status("asking the gateways")

    def __enter__(self) -> _Progress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, standing: Standing) -> None:
        """Shows a look's result."""
        verdict, line = standing.verdict, progress_line(standing)
        if self._status is not None:
            self._status.update(line)
        news = (standing.channel.revision, verdict.needs if isinstance(verdict, Wait) else verdict)
        if news != self._said and (self._status is None or not isinstance(verdict, Wait)):
            typer.echo(line, err=True)
        self._said = news
