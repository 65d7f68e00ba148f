"""One version beside the version before: the bytes of each way to store it, and the time.

Every way is lossless; what our codec makes is applied and compared with the version, bit by bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TypeVar

import numpy as np
import zstandard

from benchmarks.deltas.runs import Run
from headrace.weights import State, entries
from model_store import delta
from model_store.delta import TensorDelta
from model_store.records import TensorEntry
from model_store.word_steps import words_of

# Pieces into which a store could cut tensors, to leave out those that did not change.
CHUNKS = (64 * 1024, 1024 * 1024)
# The shortest of so many is taken: other work shares the caches.
TRIES = 3
MODEL = "measured"

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Means over the versions of a run; bytes are what a version takes in a store.

    `changed` is a part of all words, `by_one` a part of those: moved to a next float. `whole_bytes`
    are those of tensors that are not worth a delta, within `delta_bytes`. Seconds are CPU time of
    one thread, without digesting and without a store.
    """

    changed: float
    by_one: float
    full_bytes: float
    zstd_bytes: float
    xor_bytes: float
    small_chunk_bytes: float
    large_chunk_bytes: float
    delta_bytes: float
    whole_bytes: float
    xor_s: float
    encode_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class _Pair:
    """One tensor of two versions, the bytes of both."""

    old: TensorEntry
    new: TensorEntry
    before: memoryview
    after: memoryview

    def difference(self) -> TensorDelta | None:
        return delta.difference(self.old, self.new, self.before, self.after)

    def xor(self) -> bytes:
        before, after = (np.frombuffer(side, np.uint8) for side in (self.before, self.after))
        return zstandard.compress((before ^ after).tobytes(), level=1)

    def changes(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """How far each changed word moved, as the difference of its bits; ±1 is a next float."""
        before, after = (words_of(side, self.new.datatype) for side in (self.before, self.after))
        at = np.flatnonzero(before != after)
        return after[at].astype(np.int64) - before[at].astype(np.int64)

    def changed_chunks(self, size_bytes: int) -> int:
        """Bytes of the chunks that differ."""
        starts = range(0, len(self.after), size_bytes)
        chunks = (slice(at, at + size_bytes) for at in starts)
        return sum(len(self.after[c]) for c in chunks if self.before[c] != self.after[c])


def measure(run: Run, versions: int) -> Sizes:
    """Trains, and measures `versions` of it."""
    found = [_sizes(list(_pairs(*states))) for states in pairwise(run.states(versions + 1))]
    return Sizes(**{name: fmean(getattr(one, name) for one in found) for name in Sizes.__slots__})


def _pairs(before: State, after: State) -> Iterator[_Pair]:
    (old_entries, old), (new_entries, new) = entries(before), entries(after)
    for one, other in zip(old_entries, new_entries, strict=True):
        yield _Pair(one, other, old[one.digest], new[other.digest])


def _sizes(pairs: list[_Pair]) -> Sizes:
    moves = [pair.changes() for pair in pairs]
    changed = sum(move.size for move in moves)
    words = sum(words_of(pair.after, pair.new.datatype).size for pair in pairs)
    xors, xor_s = _timed(lambda: [pair.xor() for pair in pairs])
    blob, encode_s = _timed(lambda: _encoded(pairs))
    whole = _checked(pairs, blob)
    return Sizes(
        changed=changed / words,
        by_one=sum(int((np.abs(move) == 1).sum()) for move in moves) / max(1, changed),
        full_bytes=sum(len(pair.after) for pair in pairs),
        zstd_bytes=sum(len(zstandard.compress(pair.after, level=1)) for pair in pairs),
        xor_bytes=sum(map(len, xors)),
        small_chunk_bytes=sum(pair.changed_chunks(CHUNKS[0]) for pair in pairs),
        large_chunk_bytes=sum(pair.changed_chunks(CHUNKS[1]) for pair in pairs),
        delta_bytes=len(blob) + whole,
        whole_bytes=whole,
        xor_s=xor_s,
        encode_s=encode_s,
        decode_s=_decode_s(pairs, blob),
    )


def _encoded(pairs: list[_Pair]) -> bytes:
    changed = (pair.difference() for pair in pairs if pair.old.digest != pair.new.digest)
    return delta.encode(MODEL, 1, [found for found in changed if found is not None])


def _checked(pairs: list[_Pair], blob: bytes) -> int:
    """Bytes of the tensors that the blob leaves out; sees that the others come out right."""
    changes, whole = delta.decode(blob, MODEL, 1), 0
    for pair in pairs:
        if pair.new.name in changes:
            content = bytearray(pair.before)
            changes[pair.new.name].apply(memoryview(content))
            assert content == pair.after, f"{pair.new.name} came out wrong"
        elif pair.old.digest != pair.new.digest:
            whole += len(pair.after)
    return whole


def _decode_s(pairs: list[_Pair], blob: bytes) -> float:
    """The shortest time to apply the blob to tensors in place."""

    def once() -> float:
        contents = {pair.new.name: memoryview(bytearray(pair.before)) for pair in pairs}
        started = time.thread_time()
        for name, change in delta.decode(blob, MODEL, 1).items():
            change.apply(contents[name])
        return time.thread_time() - started

    return min(once() for _ in range(TRIES))


def _timed(work: Callable[[], _R]) -> tuple[_R, float]:
    """What it gives, and the shortest of its times in seconds."""
    times = []
    for _ in range(TRIES):
        started = time.thread_time()
        result = work()
        times.append(time.thread_time() - started)
    return result, min(times)
