"""One thread, a fresh store a test, and no waiting between repetitions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import torch

from headrace import publisher
from model_store import Store, open_store


@pytest.fixture(autouse=True)
def one_thread_no_delays(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(publisher, "RETRY_DELAYS_S", (0.0, 0.0, 0.0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def store_name() -> str:
    return f"publisher-{uuid4().hex}"


@pytest.fixture
def store(store_name: str) -> Iterator[Store]:
    with open_store(f"memory://{store_name}") as opened:
        yield opened


@pytest.fixture(params=["memory", "file"])
def any_store(request, store: Store, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield store
    else:
        with open_store(f"file://{tmp_path}/store") as opened:
            yield opened
