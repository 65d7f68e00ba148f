"""A collector as a process, in a store of files where what is seconds old counts as an hour old.

The shortest grace that a collector takes is 15 minutes, and replicas rely on it; a scenario lasts
seconds. So publishers date their versions back (`Order.made_ago_s`), and before each collection
whatever blob was not used for some seconds is made old.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

from benchmarks.chaos.exact import NAME
from benchmarks.chaos.record import Recorder
from chassis import failpoints
from chassis.clock import wall_time_ms
from chassis.telemetry import logger
from model_store import open_store
from model_store.collection import LEAST_GRACE_S, Collection, Wish

log = logger(__name__)

# What a publisher may take between a blob and its manifest here; the grace of a real collector.
AGES_AFTER_S = 3.0
HOUR_S = 3600.0
EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Round:
    """Collect the store at `url`, whose files lie in `root`, again and again; 1 `count` times.

    `keep` are the newest versions kept, `ages_after_s` is how long a blob stays young after its
    last use, `armed` are failpoints.
    """

    url: str
    root: Path
    keep: int = 1
    ages_after_s: float = AGES_AFTER_S
    count: int = 0
    armed: str = ""


def collect(done: Event, order: Round, directory: Path) -> None:
    """Collects until `done`, and records what was removed."""
    failpoints.arm(order.armed)
    with Recorder(directory, "collector") as recorder, open_store(order.url) as store:
        rounds = 0
        while not done.is_set() and rounds != (order.count or None):
            rounds += 1
            _age(order.root / "blobs", order.ages_after_s)
            wish = Wish(keep=order.keep, grace_s=LEAST_GRACE_S)
            collected = Collection(store, wish, wall_time_ms()).run()
            removed = [v for one in collected.models if one.model == NAME for v in one.removed]
            recorder.write("collected", versions=removed, blobs=collected.deleted_blobs)
            for problem in collected.problems:
                log.warning("not collected", message=problem)
            done.wait(EVERY_S)


def _age(blobs: Path, after_s: float) -> None:
    now = time.time()
    for file in blobs.rglob("*"):
        # Taken by a publisher's rename, or by another collector.
        with suppress(FileNotFoundError):
            if file.is_file() and file.stat().st_mtime <= now - after_s:
                os.utime(file, (now - HOUR_S, now - HOUR_S))
