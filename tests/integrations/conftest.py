"""One torch thread and a file store a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model_store import Store, open_store


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"file://{tmp_path}/store") as opened:
        yield opened


def line(store: Store, model: str = "m") -> list[tuple[int, int, int]]:
    """Version, parent and step of every version."""
    manifests = [store.manifest(model, version) for version in store.versions(model)]
    return [(made.version, made.parent, made.step) for made in manifests]
