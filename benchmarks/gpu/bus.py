"""How fast bytes reach a device and come back: the device's own speed, and that of a load."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from inference_service.device.device import Device
from inference_service.device.pinned_staging import PinnedStaging
from inference_service.staging import AT_ONCE

MIB = 1024 * 1024
GIB = 1024 * MIB
TRIES = 5
TENSOR_BYTES = 8 * MIB


@dataclass(frozen=True, slots=True)
class Bus:
    """GiB/s, the best of a few tries. `own_*` is one copy of pinned memory; `staged` is from
    pageable memory into a slot, `verified` back and through the digest, both by a load's way."""

    mib: int
    own_to: float
    own_from: float
    staged: float
    verified: float


def measured(device: Device, mib: int) -> Bus:
    """Moves `mib` each way."""
    size = mib * MIB
    host = device.host_memory(size)
    host.random_(0, 256)
    there = torch.empty(size, dtype=torch.uint8, device=device.torch_device)
    tensors = [part.clone() for part in host.split(TENSOR_BYTES)]
    places = there.split(TENSOR_BYTES)
    staging = PinnedStaging(AT_ONCE, device)

    def stage() -> None:
        for source, target in zip(tensors, places, strict=True):
            staging.copy(source, target)

    def verify() -> None:
        for place in places:
            staging.digest_of(place)

    with device.lane().entered():
        return Bus(
            mib,
            _gib_s(device, size, lambda: device.copy(host, there)),
            _gib_s(device, size, lambda: device.copy(there, host)),
            _gib_s(device, size, stage),
            _gib_s(device, size, verify),
        )


def _gib_s(device: Device, size: int, move: Callable[[], None]) -> float:
    spans = []
    for _ in range(TRIES):
        device.wait(device.current().mark())
        started = time.perf_counter()
        move()
        device.wait(device.current().mark())
        spans.append(time.perf_counter() - started)
    return size / min(spans) / GIB
