"""A program compiled ahead of time (AOTInductor), whose weights are the slot's own tensors.

The compiled code holds no weights: its constants are pointed at the storage once, so that a refill
of the slot is all that a swap takes, and two slots share one compiled program. The code checks
nothing about its inputs: shapes outside those it was compiled for would read foreign memory. So the
first inputs of each shape go through the exported graph as well, which does check; where compiled
code may not compute them, or computes something else, the graph goes on answering that shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx

from chassis.telemetry import logger
from chassis.tensors import Signature
from headrace.values import Value, outputs_in_order
from inference_service.engines.engine import COMPILED, Engine
from inference_service.engines.exported import (
    MOST_SHAPES,
    Exported,
    Shapes,
    shapes_of,
    unsupported_value,
)
from inference_service.engines.graph import tensors_read
from inference_service.precision import Tolerance, agree

log = logger(__name__)

# The compile job's name of the program inside the module that it compiles.
INNER = "module"
# What the compiled code says of an index outside a table.
_OUT_OF_BOUNDS = "index out of bounds"


@dataclass(frozen=True, slots=True)
class Extent:
    """One dimension of an input: `least` to `most`; dimensions of one `symbol` are equal."""

    least: int
    most: int
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class CompiledProgram:
    """A compiled program in a file and the input shapes it may be given."""

    path: Path
    extents: tuple[tuple[Extent, ...], ...]

    def admits(self, shapes: Shapes) -> bool:
        """Whether the compiled code computes inputs of these shapes."""
        sizes: dict[str, int] = {}
        for shape, extents in zip(shapes, self.extents, strict=True):
            if len(shape) != len(extents):
                return False
            for size, extent in zip(shape, extents, strict=True):
                if not extent.least <= size <= extent.most:
                    return False
                if extent.symbol and sizes.setdefault(extent.symbol, size) != size:
                    return False
        return True


class CompilationFailed(Exception):
    """The program runs uncompiled; the text says why."""


class Compiled(Engine):
    """Runs `program` where it may, and `module`'s graph where it may not.

    `tolerance` is how far the two may differ. Raises CompilationFailed where the code does not load
    or holds weights of its own.
    """

    name = COMPILED

    def __init__(
        self,
        module: fx.GraphModule,
        program: CompiledProgram,
        signature: Signature,
        device: torch.device,
        tolerance: Tolerance,
    ) -> None:
        self._module = module
        self._program = program
        self._signature = signature
        self._tolerance = tolerance
        self._graph = Exported(module)
        self._loader = _loaded(program, device)
        self._run = self._loader.boxed_run
        # Whether the compiled code computes inputs of these shapes.
        self._admitted: dict[Shapes, bool] = {}
        # A tensor that the graph reads and the code does not is baked in, with another's values.
        read = {f"{INNER}.{name}" for name in tensors_read(module)}
        differing = sorted(read ^ set(self._loader.get_constant_fqns()))
        if differing:
            raise CompilationFailed(f"the code does not read the graph's tensors: {differing}")

    @property
    def admitted(self) -> int:
        """Different input shapes that the compiled code computes."""
        return sum(self._admitted.values())

    def bind(self, storage: Mapping[str, torch.Tensor]) -> None:
        """Points the code's constants at the storage."""
        # Buffers that are part of the program are in no version's table.
        found = {**dict(self._module.named_buffers(remove_duplicate=False)), **storage}
        constants = {f"{INNER}.{name}": found[name] for name in tensors_read(self._module)}
        # Not the inactive set; all of them; ours to keep alive.
        self._loader.load_constants(constants, False, True, True)

    def forward(self, inputs: Sequence[Value]) -> Any:
        """The outputs in the signature's order."""
        shapes = shapes_of(inputs)
        admitted = self._admitted.get(shapes)
        if admitted is None:
            return self._first_of(shapes, inputs)
        return self._compute(inputs) if admitted else self._graph.forward(inputs)

    def _first_of(self, shapes: Shapes, inputs: Sequence[Value]) -> Any:
        # Copies: a module may write to its inputs.
        wanted = self._graph.forward(_copies(inputs))
        found: Any = None
        if self._program.admits(shapes):
            found = self._compute(_copies(inputs))
        admitted = found is not None and self._agrees(found, wanted)
        if not admitted:
            log.debug(
                "compiled code does not answer these shapes", shapes=[list(s) for s in shapes]
            )
        if len(self._admitted) < MOST_SHAPES:
            self._admitted[shapes] = admitted
        return found if admitted else wanted

    def _compute(self, inputs: Sequence[Value]) -> list[torch.Tensor]:
        # Compiled for dense inputs; a state may come as a view of something else.
        dense = [value.contiguous() for value in inputs if isinstance(value, torch.Tensor)]
        try:
            outputs: list[torch.Tensor] = self._run(dense)
        except RuntimeError as error:
            if _OUT_OF_BOUNDS in str(error):
                raise unsupported_value() from error
            raise
        return outputs

    def _agrees(self, found: Sequence[Value], wanted: Any) -> bool:
        expected = outputs_in_order(wanted, self._signature)
        return len(found) == len(expected) and all(
            agree(one, other, self._tolerance) for one, other in zip(found, expected, strict=True)
        )


def _copies(inputs: Sequence[Value]) -> list[Value]:
    return [value.clone() if isinstance(value, torch.Tensor) else value for value in inputs]


def _loaded(program: CompiledProgram, device: torch.device) -> Any:
    index = (device.index or 0) if device.type == "cuda" else -1
    try:
        return torch._inductor.aoti_load_package(
            str(program.path), run_single_threaded=True, device_index=index
        ).loader
    except (RuntimeError, OSError) as error:
        first = str(error).strip().partition("\n")[0]
        raise CompilationFailed(f"the compiled program does not load: {first}") from error
