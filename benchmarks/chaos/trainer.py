"""A publisher as a process: versions of the exact model, one after another, each written down.

Before a version is published the store is told nothing; after it the record says whether the
publication was acknowledged. What is not acknowledged may exist or not.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from multiprocessing.synchronize import Event
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.chaos.exact import NAME
from benchmarks.chaos.model import SMALL, Exact, fill
from benchmarks.chaos.record import Recorder
from chassis import failpoints
from chassis.clock import wall_time_ms
from chassis.errors import HeadraceError
from chassis.telemetry import logger
from headrace.publisher import Publisher
from model_store import Store, line_store, open_store

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """Publish `count` versions of seeds `first`, `first` + 1, ..., `every_s` seconds apart.

    Count 0 goes on until it is told to end; with `span_s` the versions are spread evenly over that
    time instead. `armed` are failpoints; `largest_file` is a limit in bytes on what the process may
    write into one file, 0 for none; the first `failing_fsyncs` calls of fsync end in EIO; `ballast`
    is the model's, and `exports` says that the newest version's program is not to be used. In a
    store of files versions are dated `made_ago_s` seconds back.
    """

    url: str
    first: int
    count: int = 0
    every_s: float = 0.4
    span_s: float = 0.0
    armed: str = ""
    largest_file: int = 0
    failing_fsyncs: int = 0
    ballast: int = SMALL
    exports: bool = False
    made_ago_s: float = 0.0


def train(done: Event, name: str, order: Order, directory: Path) -> None:
    """Acquires an epoch and publishes until the order is carried out or `done` is set."""
    with Recorder(directory, f"trainer-{name}") as recorder, open_store(order.url) as store:
        epoch = _acquired(store, name, recorder)
        # The program of a version that is there is taken from the store: quicker than an export.
        known = not order.exports and bool(store.versions(NAME))
        publisher = Publisher(store, NAME if known else Exact(order.ballast), epoch=epoch)
        _break(order)
        began = monotonic()
        for number in count():
            if done.is_set() or number == (order.count or None):
                return
            _publish(publisher, order.ballast, order.first + number, name, recorder)
            due = began + (number + 1) * order.span_s / max(1, order.count)
            done.wait(max(due - monotonic(), order.every_s))


def _acquired(store: Store, name: str, recorder: Recorder) -> int:
    epoch = store.acquire_epoch(NAME, name)
    recorder.write("epoch", publisher=name, epoch=epoch)
    return epoch


def _break(order: Order) -> None:
    """What the order says is to go wrong in this process from now on."""
    failpoints.arm(order.armed)
    if order.largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order.largest_file, order.largest_file))
    if order.failing_fsyncs:
        # mypy sees a function replaced: that is what a fault of the system call is here.
        os.fsync = _failing(os.fsync, order.failing_fsyncs)  # type: ignore[assignment]
    if order.made_ago_s:
        behind_ms = round(order.made_ago_s * 1000)
        # As its clock would: nobody else in this process asks there.
        line_store.wall_time_ms = lambda: wall_time_ms() - behind_ms  # type: ignore[attr-defined]


def _failing(fsync: Callable[[Any], None], times: int) -> Callable[[Any], None]:
    passes = count(1)

    def failing(descriptor: Any) -> None:
        if next(passes) <= times:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    return failing


def _publish(publisher: Publisher, ballast: int, seed: int, name: str, recorder: Recorder) -> None:
    module = Exact(ballast).build().eval()
    fill(module, seed)
    at = monotonic()
    outcome: dict[str, object] = {"code": "OK", "reason": "", "message": "", "version": 0}
    try:
        outcome["version"] = publisher.publish(module, step=seed)
    except HeadraceError as error:
        outcome |= {"code": error.code.name, "reason": error.reason, "message": error.message}
        log.warning("not published", seed=seed, reason=error.reason, message=error.message)
    recorder.write(
        "publication",
        at=at,
        publisher=name,
        epoch=publisher.epoch,
        seed=seed,
        ended=monotonic(),
        acknowledged=outcome["code"] == "OK",
        **outcome,
    )
