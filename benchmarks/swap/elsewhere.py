"""A trainer in a process of its own, so that what it computes does not hold up who measures."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event

import torch

from benchmarks.swap.ballast import Ballast, Weights, fill
from headrace.publisher import Publisher

# A new process imports torch.
READY_S = 60.0
_CONTEXT = multiprocessing.get_context("spawn")


@contextmanager
def publishing(store: str, mib: int, channel: str) -> Iterator[None]:
    """One version of `mib` a second goes to the channel meanwhile; the first has been published."""
    ready, done = _CONTEXT.Event(), _CONTEXT.Event()
    child = _CONTEXT.Process(target=_publish, args=(store, mib, channel, ready, done), daemon=True)
    child.start()
    try:
        if not ready.wait(READY_S):
            raise TimeoutError(f"the trainer did not publish within {READY_S} s")
        yield
    finally:
        done.set()
        child.join(READY_S)


def _publish(store: str, mib: int, channel: str, ready: Event, done: Event) -> None:
    torch.set_num_threads(1)
    model = Ballast(mib)
    module = model.build()
    assert isinstance(module, Weights)
    with Publisher(store, model=model, channel=channel, deltas="off") as publisher:
        # Seeds above those of a trainer before this one: every version is a new one.
        first = max(publisher.store.versions(model.name), default=0) + 1
        number = 0
        started = time.monotonic()
        while not done.is_set():
            publisher.publish(fill(module, first + number), step=first + number)
            ready.set()
            number += 1
            done.wait(max(0.0, started + number - time.monotonic()))
