"""One torch thread and a file store a test, with modules published into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from headrace import Publisher
from model_store import Store, open_store

ROWS = torch.linspace(-1, 1, 16).reshape(2, 8)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"file://{tmp_path}/store") as opened:
        yield opened


class Mixed(nn.Module):
    """A tensor of every datatype beside a linear layer; sizes that no alignment divides."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)
        for number, dtype in enumerate(DTYPES):
            values = torch.arange(3) % 2 if dtype is torch.bool else torch.arange(3) + number
            self.register_buffer(f"b{number}", values.to(dtype))
        self.register_buffer("scalar", torch.tensor(7, dtype=torch.int8))
        self.register_buffer("empty", torch.zeros(0, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


DTYPES = [
    *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.float32, torch.float64, torch.bfloat16),
]


def published(store: Store, module: nn.Module, **facts) -> int:
    with Publisher(store, "m", example_inputs=ROWS) as publisher:
        return publisher.publish(module, **facts)
