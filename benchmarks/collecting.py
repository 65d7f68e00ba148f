"""What collecting and checking a store take, and what a publisher feels of it.

    python -m benchmarks.collecting --store file:///tmp/store --versions 200 --tensors 50

Fills a store of its own below the URL given, so that the numbers mean something: every version has
tensors of its own. Prints one line a figure.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from chassis.clock import wall_time_ms
from chassis.tensors import Signature, TensorSpec
from model_store import Store, open_store
from model_store.checking import Check
from model_store.collection import Collection, Wish
from model_store.publication import publish
from model_store.records import Manifest, Program, ProgramKind, TensorEntry

_BYTES = 4096
_SPEC = TensorSpec("x", "FP32", (-1, 4))
_SIGNATURE = Signature((_SPEC,), (TensorSpec("y", "FP32", (-1, 4)),), 8)
_HOURS_MS = 2 * 3600 * 1000

_R = TypeVar("_R")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True, help="URL of a store that may be filled")
    parser.add_argument("--versions", type=int, default=200)
    parser.add_argument("--tensors", type=int, default=50)
    given = parser.parse_args(arguments)
    with open_store(given.store) as store, open_store(given.store) as other:
        alone = [_publish(store, given.tensors) for _ in range(given.versions)]
        _show("publish alone, median", statistics.median(alone) * 1000, "ms")
        report, took_s = _timed(Check(store).run)
        _show(f"check of {report.blobs} blobs", took_s, "s")
        beside: list[float] = []
        removed, blobs, took_s = _collect_beside(store, other, given.tensors, beside)
        _show(f"gc of {removed} versions and {blobs} blobs", took_s, "s")
        if beside:
            _show("publish beside gc, median", statistics.median(beside) * 1000, "ms")
            _show("publish beside gc, longest", max(beside) * 1000, "ms")


def _collect_beside(
    store: Store, other: Store, tensors: int, beside: list[float]
) -> tuple[int, int, float]:
    """Versions removed, blobs deleted, seconds taken, while another thread publishes."""
    done = threading.Event()

    def go_on() -> None:
        while not done.is_set():
            beside.append(_publish(other, tensors))

    publishing = threading.Thread(target=go_on)
    # Its moment is now: what was published before is old, what is published beside it is not.
    wish = Wish(grace_s=_HOURS_MS / 1000)
    collection = Collection(store, wish, wall_time_ms() + _HOURS_MS)
    publishing.start()
    try:
        collected, took_s = _timed(collection.run)
    finally:
        done.set()
        publishing.join()
    removed = sum(len(one.removed) for one in collected.models)
    return removed, collected.deleted_blobs, took_s


def _publish(store: Store, tensors: int) -> float:
    """Seconds that a publication of new tensors takes."""
    contents = [os.urandom(_BYTES) for _ in range(tensors)]
    started = time.perf_counter()
    entries = [
        TensorEntry(f"tensor.{index}", "FP32", (_BYTES // 4,), store.put_blob(content), _BYTES)
        for index, content in enumerate(contents)
    ]
    program = Program(ProgramKind.IMPORT_PATH, store.put_blob(b"bench:Model"), 11)
    publish(
        store,
        Manifest(model="bench", program=program, signature=_SIGNATURE, tensors=tuple(entries)),
    )
    return time.perf_counter() - started


def _timed(call: Callable[[], _R]) -> tuple[_R, float]:
    started = time.perf_counter()
    return call(), time.perf_counter() - started


def _show(what: str, value: float, unit: str) -> None:
    print(f"{what:<44}{value:>10.1f} {unit}")


if __name__ == "__main__":
    main()
