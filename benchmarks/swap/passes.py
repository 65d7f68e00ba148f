"""What each pass over a version's bytes costs one core, and two ways to read values of Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.swap.ballast import MIB
from benchmarks.swap.floors import chunks_of, put_chunks
from model_store.blobs import PART_BYTES, at_once
from model_store.digests import digest_in_parts
from model_store.durable_files import read_file_into
from model_store.redis_connection import RedisConnection

REPEATS = 3


@dataclass(frozen=True, slots=True)
class Passes:
    """Milliseconds for `mib` MiB with nothing beside, the least of three."""

    mib: int
    read_fresh_ms: float
    read_into_ms: float
    copy_ms: float
    digest_ms: float
    redis_client_ms: float
    redis_bulk_ms: float


def passes(directory: Path, redis_url: str, mib: int) -> Passes:
    """Of a file in the page cache, into memory that was touched before."""
    path, content = directory / "passes", np.random.default_rng(0).bytes(mib * MIB)
    path.write_bytes(content)
    source = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    target = torch.zeros(mib * MIB, dtype=torch.uint8)
    view = target.numpy().data
    redis = RedisConnection(redis_url)
    keys, parts = put_chunks(redis, content), chunks_of(view)
    found = Passes(
        mib,
        _ms(path.read_bytes),
        _ms(lambda: read_file_into(path, view, at_once)),
        _ms(lambda: target.copy_(source)),
        _ms(lambda: digest_in_parts(view, PART_BYTES, at_once)),
        _ms(lambda: [redis.ask("GET", key) for key in keys]),
        _ms(lambda: redis.fill(keys, parts)),
    )
    redis.ask("DEL", *keys)
    redis.close()
    path.unlink()
    return found


def _ms(call: Callable[[], object]) -> float:
    spans = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        spans.append(time.perf_counter() - started)
    return min(spans) * 1000
