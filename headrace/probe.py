"""Golden data: what a module answers to a few inputs, recorded so that a replica can check itself.

Decides how a forward pass is run beside training without a trace in it, the layout of the probe
blob and how far a replica may be off.

The blob is safetensors: "input.<name>" and "output.<name>", of a decoupled model
"output.<k>.<name>" for its first few responses. A BYTES tensor stands in it as the uint8 of its raw
wire bytes, its shape beside it as the INT64 tensor "shape.<key>". A blob without outputs is of a
model that does not repeat itself: a replica runs its inputs and compares nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from chassis.errors import DataLoss, InvalidArgument
from chassis.tensors import Signature, TensorSpec, decode_raw, encode_raw
from headrace.program import evaluating
from headrace.values import Value, copied, datatype_of_value, moved, outputs_in_order

INPUT = "input."
OUTPUT = "output."
SHAPE = "shape."

# Responses of a decoupled model that are recorded, computed and compared; it is closed after them.
PROBED_RESPONSES = 4

# `headrace.Model.generate`.
Generate = Callable[[nn.Module, dict[str, Value]], Iterable[Any]]

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


def run(module: nn.Module, inputs: Sequence[Value]) -> Any:
    """What forward returns for `inputs`, which are copied to the module's device."""
    device = device_of(module)
    with undisturbed(module):
        return module(*(copied(value, device) for value in inputs))


def responses(
    module: nn.Module, generate: Generate, inputs: Sequence[Value], signature: Signature
) -> list[list[Value]]:
    """The first PROBED_RESPONSES that a decoupled model yields for `inputs`, in signature order.

    Raises InvalidArgument (BAD_OUTPUT) and what the model raises.
    """
    device = device_of(module)
    named = named_inputs(signature, [moved(value, device) for value in inputs])
    with undisturbed(module):
        return [
            outputs_in_order(response, signature)
            for response in first_responses(generate(module, named))
        ]


def named_inputs(signature: Signature, inputs: Sequence[Value]) -> dict[str, Value]:
    """Inputs in signature order as `generate` takes them."""
    return {spec.name: value for spec, value in zip(signature.inputs, inputs, strict=True)}


def first_responses(generation: Iterable[Any]) -> Iterator[Any]:
    """At most PROBED_RESPONSES of a generation, which is closed after them."""
    iterator = iter(generation)
    try:
        yield from islice(iterator, PROBED_RESPONSES)
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def tolerances(tensors: Iterable[torch.Tensor]) -> tuple[float, float]:
    """Absolute and relative tolerance, for the least precise of the dtypes."""
    dtypes = {tensor.dtype for tensor in tensors}
    return max([_TOLERANCES.get(dtype, _FULL_PRECISION) for dtype in dtypes] or [_FULL_PRECISION])


@dataclass(frozen=True, slots=True)
class Golden:
    """What a probe blob holds, everything in signature order, states behind inputs and outputs.

    `answers` are the outputs: one entry, or of a decoupled model one for each response recorded;
    None where the model does not repeat itself.
    """

    inputs: tuple[Value, ...]
    answers: tuple[tuple[Value, ...], ...] | None


def encode_probe(
    signature: Signature, inputs: Sequence[Value], answers: Sequence[Sequence[Value]] | None
) -> bytes:
    """The probe blob of what `Golden` describes.

    Raises InvalidArgument (NON_FINITE) where an output is NaN.
    """
    arguments = zip(signature.arguments, inputs, strict=True)
    named = {INPUT + spec.name: value for spec, value in arguments}
    for index, answer in enumerate(answers or ()):
        for spec, value in zip(signature.results, answer, strict=True):
            if isinstance(value, torch.Tensor) and bool(torch.isnan(value).any()):
                raise InvalidArgument(
                    "NON_FINITE",
                    f"output {spec.name!r} is NaN for the golden inputs; not published",
                )
            named[_output_key(signature, index, spec)] = value
    return save(_as_tensors(named))


def _output_key(signature: Signature, index: int, spec: TensorSpec) -> str:
    return OUTPUT + (f"{index}." if signature.decoupled else "") + spec.name


def _as_tensors(named: Mapping[str, Value]) -> dict[str, torch.Tensor]:
    tensors = {}
    for key, value in named.items():
        if isinstance(value, torch.Tensor):
            # safetensors refuses tensors that share memory, as an output that is an input would.
            tensors[key] = value.detach().cpu().clone().contiguous()
        else:
            raw = encode_raw(value, "BYTES")
            tensors[key] = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
            tensors[SHAPE + key] = torch.tensor(value.shape, dtype=torch.int64)
    return tensors


def decode_probe(content: bytes, signature: Signature) -> Golden:
    """What a probe blob holds. Raises DataLoss (BAD_PROBE)."""
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise DataLoss("BAD_PROBE", f"the probe blob does not load: {error}") from error
    inputs = tuple(_read(tensors, INPUT + spec.name, spec) for spec in signature.arguments)
    answers: list[tuple[Value, ...]] = []
    first = signature.outputs[0]
    while _output_key(signature, len(answers), first) in tensors or not (
        answers or may_vary(signature)
    ):
        answers.append(
            tuple(
                _read(tensors, _output_key(signature, len(answers), spec), spec)
                for spec in signature.results
            )
        )
        if not signature.decoupled:
            break
    return Golden(inputs, tuple(answers) or None)


def may_vary(signature: Signature) -> bool:
    """Whether a model of this signature may answer differently each time, as one that samples."""
    return signature.decoupled or any(spec.datatype == "BYTES" for spec in signature.outputs)


def _read(tensors: Mapping[str, torch.Tensor], key: str, spec: TensorSpec) -> Value:
    value: Value | None = tensors.get(key)
    shape = tensors.get(SHAPE + key)
    if spec.datatype == "BYTES" and isinstance(value, torch.Tensor) and shape is not None:
        try:
            raw = value.numpy().tobytes()
            value = decode_raw(raw, "BYTES", shape.tolist(), name=key).astype(np.object_)
        except InvalidArgument as error:
            raise DataLoss("BAD_PROBE", f"the probe is damaged: {error.message}") from error
    if value is None or datatype_of_value(value) != spec.datatype or 0 in value.shape:
        raise DataLoss(
            "BAD_PROBE", f"the probe lacks a tensor {key!r} of {spec.datatype} with elements"
        )
    return value
