"""A BF16 module whose words drift as under a small learning rate, and its publisher as a process.

`python -m tests.publisher.drifting URL COUNT FAILPOINTS` publishes versions of the steps 1 to
COUNT; what step n holds is known to whoever asks for it.
"""

from __future__ import annotations

import sys

import torch
from torch import nn

from chassis import failpoints
from chassis.tensors import ELEMENT_BYTES
from headrace import Publisher
from model_store import Store, delta
from model_store.digests import digest
from model_store.records import Manifest

MODEL = "drifting"
WIDTH = 256
BATCH = torch.linspace(-1, 1, 3 * WIDTH).reshape(3, WIDTH).bfloat16()


class Drifting(nn.Module):
    """Two large tensors, two small ones, and a buffer of integers that counts steps."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH, dtype=torch.bfloat16)
        self.second = nn.Linear(WIDTH, WIDTH, dtype=torch.bfloat16)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


class Tied(Drifting):
    """Its two large tensors are one."""

    def __init__(self) -> None:
        super().__init__()
        self.second.weight = self.first.weight


def fresh() -> Drifting:
    """The module of step 0, always the same."""
    module = Drifting()
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=chance) / 16)
    return module


def drift(module: Drifting, part: float = 0.02) -> None:
    """One step: a part of the words moves to a next float."""
    module.steps += 1
    chance = torch.Generator().manual_seed(int(module.steps))
    for parameter in module.parameters():
        words = parameter.data.view(torch.int16)
        moves = torch.rand(words.shape, generator=chance) < part
        up = torch.rand(words.shape, generator=chance) < 0.5
        words += moves * torch.where(up, 1, -1).to(torch.int16)


def module_of(step: int) -> Drifting:
    """The module after that many steps."""
    module = fresh()
    for _ in range(step):
        drift(module)
    return module


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def restored(store: Store, manifest: Manifest) -> dict[str, bytes]:
    """Every tensor's bytes from the anchor and all deltas, each digested on the way."""
    steps = [
        delta.decode(store.read_blob(step.digest), manifest.model, step.base_version)
        for step in manifest.deltas
    ]
    tensors = {}
    for entry in manifest.tensors:
        content = bytearray(store.read_blob(entry.stored_digest))
        for changes in steps:
            change = changes.get(entry.name)
            if change is not None and change.base_digest in ("", digest(content)):
                change.apply(memoryview(content))
                assert digest(content) == change.digest
        assert digest(content) == entry.digest
        assert len(content) % ELEMENT_BYTES[entry.datatype] == 0
        tensors[entry.name] = bytes(content)
    return tensors


def main() -> None:
    url, count, armed = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    failpoints.arm(armed)
    module = fresh()
    with Publisher(url, MODEL, example_inputs=BATCH) as publisher:
        for step in range(1, count + 1):
            drift(module)
            publisher.publish(module, step=step)


if __name__ == "__main__":
    main()
