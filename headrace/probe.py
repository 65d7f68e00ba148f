"""Golden data: what a module answers to a few inputs, recorded so that a replica can check itself.

Decides how a forward pass is run beside training without a trace in it, the layout of the probe
blob ("input.<name>" and "output.<name>" in safetensors) and how far a replica may be off.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from chassis.errors import DataLoss, InvalidArgument
from chassis.tensors import Signature
from headrace.program import evaluating

INPUT = "input."
OUTPUT = "output."

# (absolute, relative): another machine, batch size or kernel rounds differently by about this.
_TOLERANCES = {torch.bfloat16: (5e-2, 5e-2), torch.float16: (1e-2, 1e-2)}
_FULL_PRECISION = (1e-4, 1e-3)


def device_of(module: nn.Module) -> torch.device:
    """Where the module's first parameter or buffer lives; the CPU if it has none."""
    for tensor in module.state_dict().values():
        if isinstance(tensor, torch.Tensor):
            return tensor.device
    return torch.device("cpu")


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; modes, buffers and every random generator are restored after."""
    device = device_of(module)
    devices = [device] if device.type == "cuda" else []
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with (
        evaluating(module),
        torch.no_grad(),
        torch.random.fork_rng(devices),
        _buffers_restored(module),
    ):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextmanager
def _buffers_restored(module: nn.Module) -> Iterator[None]:
    # A module may count or cache in a buffer even in eval mode, in place or by a new tensor.
    kept = [
        (part, name, buffer, buffer._version, buffer.clone())
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for part, name, buffer, version, content in kept:
            part._buffers[name] = buffer
            if buffer._version != version:
                buffer.copy_(content)


def run(module: nn.Module, inputs: Sequence[torch.Tensor]) -> Any:
    """What forward returns for `inputs`, which are moved to the module's device."""
    device = device_of(module)
    with undisturbed(module):
        return module(*(tensor.to(device) for tensor in inputs))


def tolerances(tensors: Iterable[torch.Tensor]) -> tuple[float, float]:
    """Absolute and relative tolerance, for the least precise of the dtypes."""
    dtypes = {tensor.dtype for tensor in tensors}
    return max([_TOLERANCES.get(dtype, _FULL_PRECISION) for dtype in dtypes] or [_FULL_PRECISION])


def encode_probe(
    signature: Signature, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]
) -> bytes:
    """The probe blob. Raises InvalidArgument (NON_FINITE) where an output is NaN."""
    named = {
        INPUT + spec.name: tensor for spec, tensor in zip(signature.inputs, inputs, strict=True)
    }
    for spec, tensor in zip(signature.outputs, outputs, strict=True):
        if bool(torch.isnan(tensor).any()):
            raise InvalidArgument(
                "NON_FINITE", f"output {spec.name!r} is NaN for the golden inputs; not published"
            )
        named[OUTPUT + spec.name] = tensor
    # safetensors refuses tensors that share memory, as an output that is an input would.
    return save(
        {name: tensor.detach().cpu().clone().contiguous() for name, tensor in named.items()}
    )


def probe_inputs(content: bytes, signature: Signature) -> tuple[torch.Tensor, ...]:
    """The golden inputs of a probe blob, in signature order. Raises DataLoss (BAD_PROBE)."""
    try:
        named = load(content)
        return tuple(named[INPUT + spec.name] for spec in signature.inputs)
    except (SafetensorError, KeyError) as error:
        raise DataLoss("BAD_PROBE", f"the stored probe cannot be read: {error}") from error
