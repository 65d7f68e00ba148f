"""Forward passes before a version may answer: warm-up and probe.

The warm-up pays for first calls (allocation, kernel choice) and shows that the module computes what
its signature promises at the smallest and the largest batch. The probe runs the publisher's golden
inputs and compares with its golden outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import EllipsisType

import safetensors.torch
import torch

from chassis.errors import FailedPrecondition, HeadraceError
from chassis.tensors import Signature, TensorSpec
from headrace.program import TORCH_TYPES
from inference_service.instance import BadOutput, Instance
from model_store.records import Probe

# The size of a free dimension that is not the batch, where no golden input shows a better one.
FREE_SIZE = 8

Tensors = dict[str, torch.Tensor]


class Rehearsal:
    """Rehearses one version; `golden` is the content of its probe blob, None without a probe."""

    def __init__(self, signature: Signature, probe: Probe | None, golden: bytes | None) -> None:
        self._signature = signature
        self._probe = probe
        self._golden = _golden_tensors(signature, golden) if golden is not None else {}

    def warm_up(self, instance: Instance) -> None:
        """Runs a few batch sizes. Raises FailedPrecondition (WARM_UP_FAILED, BAD_OUTPUT)."""
        most = self._signature.max_batch_size
        for rows in sorted({1, (most + 1) // 2, most} - {0}) if most else (0,):
            inputs = [self._input(spec, rows) for spec in self._signature.inputs]
            _run(instance, inputs, f"a batch of {rows} rows")

    def prove(self, instance: Instance) -> None:
        """Compares golden outputs. Raises FailedPrecondition (PROBE_FAILED, WARM_UP_FAILED)."""
        for rows in self._parts():
            inputs = [self._golden[f"input.{s.name}"][rows] for s in self._signature.inputs]
            outputs = _run(instance, inputs, "the golden inputs")
            for spec, output in zip(self._signature.outputs, outputs, strict=True):
                self._compare(spec.name, output.cpu(), self._golden[f"output.{spec.name}"][rows])

    def _parts(self) -> Iterator[slice | EllipsisType]:
        if self._golden:
            total = self._golden[f"input.{self._signature.inputs[0].name}"].shape[:1]
            most = self._signature.max_batch_size
            if not most:
                # The whole of it; a slice of a scalar is refused.
                yield ...
            else:
                yield from (slice(at, at + most) for at in range(0, total[0], most))

    def _input(self, spec: TensorSpec, rows: int) -> torch.Tensor:
        golden = self._golden.get(f"input.{spec.name}")
        if golden is None:
            sizes = (FREE_SIZE if size == -1 else size for size in spec.shape)
            shape = (rows, *list(sizes)[1:]) if rows else tuple(sizes)
            return torch.zeros(shape, dtype=TORCH_TYPES[spec.datatype])
        return golden[torch.arange(rows) % golden.shape[0]] if rows else golden

    def _compare(self, name: str, output: torch.Tensor, golden: torch.Tensor) -> None:
        if output.shape != golden.shape:
            raise FailedPrecondition(
                "PROBE_FAILED",
                f"output {name!r} has shape {list(output.shape)}; the golden one "
                f"{list(golden.shape)}",
            )
        probe = self._probe
        assert probe is not None
        found, wanted = output.double(), golden.double()
        difference = (found - wanted).abs()
        allowed = probe.absolute_tolerance + probe.relative_tolerance * wanted.abs()
        # Equal infinities differ by NaN, a NaN output is never within tolerance.
        wrong = ~((output == golden) | (difference <= allowed))
        if bool(wrong.any()):
            largest = float(difference[wrong].nan_to_num(nan=float("inf")).max())
            raise FailedPrecondition(
                "PROBE_FAILED",
                f"output {name!r} differs from the golden one by up to {largest:.4g} in "
                f"{int(wrong.sum())} of {wrong.numel()} values; allowed are "
                f"{probe.absolute_tolerance:g} + {probe.relative_tolerance:g} * |golden|",
            )


def _run(instance: Instance, inputs: list[torch.Tensor], what: str) -> list[torch.Tensor]:
    try:
        with torch.inference_mode():
            return instance.run([tensor.to(instance.device) for tensor in inputs])
    except BadOutput as error:
        raise FailedPrecondition("BAD_OUTPUT", str(error)) from error
    except HeadraceError as error:
        raise type(error)(error.reason, f"{what} failed: {error.message}") from error
    except Exception as error:
        raise FailedPrecondition(
            "WARM_UP_FAILED", f"{what} failed: {type(error).__name__}: {error}"
        ) from error


def _golden_tensors(signature: Signature, content: bytes) -> Tensors:
    try:
        tensors = safetensors.torch.load(content)
    except Exception as error:
        raise FailedPrecondition("BAD_PROBE", f"the probe blob does not load: {error}") from error
    wanted = {f"input.{spec.name}": spec for spec in signature.inputs} | {
        f"output.{spec.name}": spec for spec in signature.outputs
    }
    for name, spec in wanted.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.dtype is not TORCH_TYPES[spec.datatype] or not tensor.numel():
            raise FailedPrecondition(
                "BAD_PROBE", f"the probe lacks a tensor {name!r} of {spec.datatype} with elements"
            )
    return {name: tensors[name] for name in wanted}
