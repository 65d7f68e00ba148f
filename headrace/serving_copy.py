"""A training module in the datatype that it is served in: what is published in its place.

Decides that floating parameters and buffers are cast, that the copy takes and gives what the
signature says whatever it computes in, and that it is made once and refilled for each version. The
module that trains is only read. Names of tensors are the module's own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from chassis.errors import InvalidArgument
from chassis.tensors import Signature
from headrace import probe
from headrace.program import FLOATING, SERVING_DTYPES, TORCH_TYPES
from headrace.values import Value, outputs_in_order


def checked_dtype(name: str) -> torch.dtype:
    """The datatype of that name. Raises InvalidArgument (BAD_SETTING)."""
    if name not in SERVING_DTYPES:
        expected = ", ".join(map(repr, SERVING_DTYPES))
        raise InvalidArgument("BAD_SETTING", f"dtype is {name!r}: expected one of {expected}")
    return SERVING_DTYPES[name]


class ServingCopy:
    """One publisher's; `name` is one of `SERVING_DTYPES`. Raises InvalidArgument (BAD_SETTING)."""

    def __init__(self, name: str) -> None:
        self.dtype = checked_dtype(name)
        self.name = name
        self._copy: nn.Module | None = None
        self._signature: Signature | None = None

    def refilled(self, module: nn.Module) -> nn.Module:
        """The copy with what `module` holds now, cast; on the same devices.

        Raises InvalidArgument (NOT_CASTABLE) where the module cannot be copied.
        """
        if self._copy is None or _layout(self._copy) != _layout(module):
            self._copy = self._made(module)
        with torch.no_grad():
            for (_, mine), (_, theirs) in zip(_tensors(self._copy), _tensors(module), strict=True):
                mine.copy_(theirs)
        return self._copy

    def adapt(self, served: nn.Module, signature: Signature, golden: tuple[Value, ...]) -> None:
        """Lets the copy, now and whenever it is made anew, take and give what `signature` says.

        Raises InvalidArgument (NOT_CASTABLE) where it does not compute the golden inputs, or its
        forward is not its class's.
        """
        self._signature = signature
        _translate(served, signature, self.dtype)
        try:
            probe.run(served, golden)
        except InvalidArgument:
            raise
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            raise InvalidArgument(
                "NOT_CASTABLE",
                f"the module does not compute in {self.name}, perhaps since its code names a "
                f"datatype: {type(error).__name__}: {first}",
            ) from error

    def _made(self, module: nn.Module) -> nn.Module:
        try:
            made = copy.deepcopy(module)
        except Exception as error:
            raise InvalidArgument(
                "NOT_CASTABLE", f"the module cannot be copied to be cast: {error}"
            ) from error
        made.to(self.dtype).requires_grad_(False)
        if self._signature is not None:
            _translate(made, self._signature, self.dtype)
        return made


def _translate(served: nn.Module, signature: Signature, dtype: torch.dtype) -> None:
    """Casts what goes into forward and what comes out of it."""
    if "forward" in vars(served):
        # It would be called in the place of the class's.
        raise InvalidArgument(
            "NOT_CASTABLE",
            f"forward is set on the {type(served).__name__} itself, not in its class, so its "
            "inputs and outputs cannot be cast: define it in the class",
        )
    plain = type(served)

    def forward(self: nn.Module, *inputs: Any) -> list[Any]:
        result = plain.forward(self, *(_cast(value, dtype) for value in inputs))
        return _restored(outputs_in_order(result, signature), signature, dtype)

    # A class of its own and no module around it: names of tensors stay what they are.
    served.__class__ = type(plain.__name__, (plain,), {"forward": forward})


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Also those that no version brings: they belong to what is computed."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _layout(module: nn.Module) -> list[tuple[object, ...]]:
    return [(name, tensor.shape, tensor.device) for name, tensor in _tensors(module)]


def _cast(value: Any, dtype: torch.dtype) -> Any:
    floating = isinstance(value, torch.Tensor) and value.dtype in FLOATING
    return value.to(dtype) if floating else value


def _restored(outputs: list[Value], signature: Signature, dtype: torch.dtype) -> list[Any]:
    return [
        _as_promised(value, TORCH_TYPES.get(spec.datatype), dtype)
        for value, spec in zip(outputs, signature.results, strict=True)
    ]


def _as_promised(value: Value, wanted: torch.dtype | None, dtype: torch.dtype) -> Value:
    # Only what the cast made another type: a wrong type of the module's own stays visible.
    if isinstance(value, torch.Tensor) and value.dtype is dtype and wanted in FLOATING:
        return value.to(wanted)
    return value
