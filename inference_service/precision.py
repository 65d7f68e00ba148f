"""The datatype that a replica computes in, where it is not the one that was published.

Decides what is cast: floating tensors of the slot when they are installed, floating inputs on their
way in, and outputs back to the datatypes of the signature. Everything else stays as it is.

How far a result may then be from the publisher's golden one: at least by the tolerance that the
publisher itself would have recorded for a module of that datatype (`headrace.probe.tolerances`),
its absolute part in units of the output's largest golden value, so that small outputs are not let
off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from chassis.tensors import Signature
from headrace.probe import tolerances
from headrace.program import FLOATING, SERVING_DTYPES, TORCH_TYPES
from headrace.values import Value

AS_PUBLISHED = "published"
PRECISIONS = (AS_PUBLISHED, *SERVING_DTYPES)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Allowed is `absolute`, plus `of_largest` times the largest golden value, plus `relative`
    times the golden value itself."""

    absolute: float
    relative: float
    of_largest: float = 0.0

    def allowed(self, golden: torch.Tensor) -> torch.Tensor:
        """How far from each element of `golden`, FP64 of any shape, a result may be."""
        sizes = golden.abs()
        finite = sizes[sizes.isfinite()]
        largest = float(finite.max()) if finite.numel() else 0.0
        return self.absolute + self.of_largest * largest + self.relative * sizes

    def __str__(self) -> str:
        widened = f" + {self.of_largest:g} * largest" if self.of_largest else ""
        return f"{self.absolute:g}{widened} + {self.relative:g} * |golden|"


@dataclass(frozen=True, slots=True)
class Precision:
    """`name` is one of `PRECISIONS`."""

    name: str = AS_PUBLISHED

    @property
    def dtype(self) -> torch.dtype | None:
        """What floating tensors are cast to; None leaves each as it is."""
        return SERVING_DTYPES.get(self.name)

    def of(self, dtype: torch.dtype) -> torch.dtype:
        """What tensors of `dtype` become."""
        return self.dtype if self.dtype is not None and dtype in FLOATING else dtype

    def cast(self, inputs: Sequence[Value]) -> list[Value]:
        """Inputs as the model takes them."""
        if self.dtype is None:
            return list(inputs)
        return [
            value.to(self.of(value.dtype)) if isinstance(value, torch.Tensor) else value
            for value in inputs
        ]

    def restored(self, outputs: Sequence[Value], signature: Signature) -> list[Value]:
        """Outputs and states as the signature promises them."""
        if self.dtype is None:
            return list(outputs)
        return [
            _restored(value, TORCH_TYPES.get(spec.datatype), self.dtype)
            for value, spec in zip(outputs, signature.results, strict=True)
        ]

    def widened(self, absolute: float, relative: float) -> Tolerance:
        """A probe's tolerance in this precision."""
        if self.dtype is None:
            return Tolerance(absolute, relative)
        of_largest, at_least = tolerances([torch.empty(0, dtype=self.dtype)])
        return Tolerance(absolute, max(relative, at_least), of_largest)


PUBLISHED = Precision()


def _restored(value: Value, wanted: torch.dtype | None, computed_in: torch.dtype) -> Value:
    # Only what the cast made another type: a wrong type of the model's own stays visible.
    if isinstance(value, torch.Tensor) and value.dtype is computed_in and wanted in FLOATING:
        return value.to(wanted)
    return value


def agree(found: Value, expected: Value, tolerance: Tolerance) -> bool:
    """Whether two results of one model are the same numbers within the tolerance, NaN for NaN."""
    if not isinstance(found, torch.Tensor) or not isinstance(expected, torch.Tensor):
        return False
    if found.shape != expected.shape or found.dtype is not expected.dtype:
        return False
    nowhere = found.isnan() & expected.isnan()
    return not bool((differing(found, expected, tolerance) & ~nowhere).any())


def differing(found: torch.Tensor, expected: torch.Tensor, tolerance: Tolerance) -> torch.Tensor:
    """Which elements lie further apart than `tolerance`, BOOL, in the shape of both."""
    one, other = found.double(), expected.double()
    near = (one - other).abs() <= tolerance.allowed(other)
    # Equal infinities differ by NaN, a NaN is never within tolerance.
    return ~((one == other) | near)
