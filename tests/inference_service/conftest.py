"""One torch thread, a fresh store a test, and followers and replicas that end with their test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import torch

from chassis import failpoints
from model_store import Store, open_store
from tests.inference_service.follower import Follower
from tests.inference_service.line import GATE, WAITING, Line
from tests.inference_service.served_replica import ServedReplica


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    WAITING.clear()
    GATE.clear()
    yield
    GATE.set()
    torch.set_num_threads(threads)
    failpoints.arm("")


@pytest.fixture
def store_url() -> str:
    return f"memory://replica-{uuid4().hex}"


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with open_store(store_url) as opened:
        yield opened


@pytest.fixture
def line(store: Store) -> Line:
    return Line(store)


@pytest.fixture
def follower(store_url: str) -> Iterator[Follower]:
    with Follower(store_url) as started:
        yield started


@pytest.fixture
def follower_of_talker(store_url: str) -> Iterator[Follower]:
    with Follower(store_url, model="talker") as started:
        yield started


@pytest.fixture
async def replica(store_url: str, line: Line) -> AsyncIterator[ServedReplica]:
    """A replica that serves version 1, of weight 1."""
    line.publish(1.0)
    async with ServedReplica(store_url) as started:
        await started.wait_ready()
        yield started


@pytest.fixture
async def moody(store_url: str, line: Line) -> AsyncIterator[ServedReplica]:
    """A replica whose forward pass waits or fails as the input says."""
    line.publish_moody(1.0)
    async with ServedReplica(store_url) as started:
        await started.wait_ready()
        yield started
        GATE.set()


@pytest.fixture
def file_store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"file://{tmp_path}/store") as opened:
        yield opened
