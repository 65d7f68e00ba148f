"""From a device's name to the device."""

from __future__ import annotations

import torch

from chassis.errors import InvalidArgument
from inference_service.device.cuda import CudaDevice
from inference_service.device.device import Device, InOrder


def device_of(device: torch.device) -> Device:
    """The device opened; not shared with who opens it again."""
    return CudaDevice(device) if device.type == "cuda" else InOrder(device)


def open_device(name: str) -> Device:
    """The device that setting `replica.device` names. Raises InvalidArgument (NO_DEVICE)."""
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidArgument(
            "NO_DEVICE",
            f"setting replica.device: torch finds {torch.cuda.device_count()} CUDA devices here, "
            f"not {name}",
        )
    return device_of(device)
