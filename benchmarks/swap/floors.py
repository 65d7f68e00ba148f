"""What no swap can be faster than on this machine: reading, copying and hashing the bytes; and how
long the one critical section of a flip is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.swap.ballast import MIB
from chassis.tensors import Signature, TensorSpec
from inference_service.slot import Slots
from model_store.digests import digest
from model_store.records import Manifest, Program, ProgramKind
from model_store.redis_blobs import CHUNK_BYTES
from model_store.redis_connection import RedisConnection

FLIPS = 20_000
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Flips:
    """Microseconds that `Slots.flip` took while two threads pinned and released."""

    p50_us: float
    p99_us: float
    most_us: float


def file_floor_s(directory: Path, mib: int) -> float:
    """Seconds to read a file of `mib` MiB, digest it, copy it into a tensor and digest that; the
    least of three."""
    path = directory / "floor"
    path.write_bytes(_content(mib))
    least = _least(path.read_bytes, mib)
    path.unlink()
    return least


def redis_floor_s(url: str, mib: int) -> float:
    """The same where the bytes are values of a Redis server, in chunks as the store has them."""
    redis = RedisConnection(url)
    keys = put_chunks(redis, _content(mib))

    def read() -> memoryview:
        # Fresh memory, as reading a file takes it.
        received = np.empty(mib * MIB, dtype=np.uint8).data
        if not redis.fill(keys, chunks_of(received)):
            raise RuntimeError("the server lost what the floor is measured with")
        return received

    least = _least(read, mib)
    redis.ask("DEL", *keys)
    redis.close()
    return least


def put_chunks(redis: RedisConnection, content: bytes) -> list[str]:
    """Sends the content in chunks; returns the key of each."""
    chunks = chunks_of(memoryview(content))
    keys = [f"chunk:{index}" for index in range(len(chunks))]
    for key, chunk in zip(keys, chunks, strict=True):
        redis.ask_all([("SET", key, chunk)])
    return keys


def chunks_of(view: memoryview) -> list[memoryview]:
    """As a Redis store cuts it."""
    return [view[at : at + CHUNK_BYTES] for at in range(0, len(view), CHUNK_BYTES)]


def _content(mib: int) -> bytes:
    return np.random.default_rng(0).bytes(mib * MIB)


def _least(read: Callable[[], bytes | memoryview], mib: int) -> float:
    target = torch.empty(mib * MIB, dtype=torch.uint8)
    target.fill_(0)
    return min(_timed(read, target) for _ in range(REPEATS))


def _timed(read: Callable[[], bytes | memoryview], target: torch.Tensor) -> float:
    started = time.perf_counter()
    content = read()
    digest(content)
    target.numpy()[:] = np.frombuffer(content, dtype=np.uint8)
    digest(target.numpy().data)
    return time.perf_counter() - started


def flips() -> Flips:
    """Flips between two slots as fast as it goes, beside readers that pin them."""
    slots, done = Slots(), threading.Event()
    for version in (1, 2):
        slots.flip(slots.begin_load(_manifest(version)), _manifest(version))
    readers = [threading.Thread(target=_read, args=(slots, done)) for _ in range(2)]
    for reader in readers:
        reader.start()
    spans = []
    for at in range(FLIPS):
        manifest = _manifest(1 + at % 2)
        slot = slots.standby(manifest.version)
        assert slot is not None
        started = time.perf_counter()
        slots.flip(slot, manifest)
        spans.append(time.perf_counter() - started)
    done.set()
    for reader in readers:
        reader.join()
    p50, p99 = np.percentile(spans, [50, 99]) * 1e6
    return Flips(float(p50), float(p99), max(spans) * 1e6)


def _read(slots: Slots, done: threading.Event) -> None:
    while not done.is_set():
        slot = slots.pin()
        assert slot is not None
        # As long as a short forward pass lets other threads run.
        time.sleep(0.0001)
        slots.release(slot)


def _manifest(version: int) -> Manifest:
    spec = TensorSpec("x", "FP32", (-1, 1))
    program = Program(ProgramKind.EXPORTED, digest(b""), 0)
    signature = Signature((spec,), (spec,), 1)
    return Manifest(model="m", program=program, signature=signature, tensors=(), version=version)
