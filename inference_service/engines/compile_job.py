"""`python -m inference_service.engines.compile_job FOLDER`: compiles one program, then ends.

A process of its own: tracing and code generation hold Python's lock for seconds, keep settings in
globals of torch, and may crash. It reads `manifest`, `program` and `golden` (empty without a probe)
in FOLDER and writes `compiled.pt2` and, last, `extents.json`: the sizes of each input's dimensions
that the code was compiled for. The weights are not read; storage for them is reserved.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from chassis.errors import HeadraceError, InvalidArgument
from chassis.tensors import Signature
from headrace.probe import decode_probe
from headrace.program import TORCH_TYPES, load_program, retraced
from headrace.values import FREE_SIZE, Value, outputs_in_order
from inference_service.engines.compiled import INNER
from inference_service.engines.graph import cast_literals, move_literals, name_constants
from inference_service.precision import Precision
from model_store.record_bytes import decode_manifest

# Generated loops on several threads end the process where an input holds an index outside a table:
# the exception cannot leave them. On one thread it is an error of that batch. Matrix products have
# threads of their own.
CODE = {
    "cpp.threads": 1,
    "aot_inductor.package_constants_in_so": False,
    # Else the values of small tensors (of a bias of up to 8 elements) become part of the code.
    "always_keep_tensor_constants": True,
}


class _InOrder(nn.Module):
    """The module, its results as a list in the signature's order."""

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        super().__init__()
        self.add_module(INNER, module)
        self._signature = signature

    def forward(self, *inputs: torch.Tensor) -> list[Any]:
        return list(outputs_in_order(self.get_submodule(INNER)(*inputs), self._signature))


def compile_program(folder: Path, model: str, device: torch.device, precision: Precision) -> None:
    """Compiles what lies in `folder`. Raises InvalidArgument (NOT_EXPORTABLE, FIXED_BATCH,
    BAD_PROGRAM) and what torch raises."""
    signature = decode_manifest((folder / "manifest").read_bytes(), model).signature
    module = _with_storage(load_program((folder / "program").read_bytes()), device, precision)
    examples = _examples(signature, (folder / "golden").read_bytes(), device, precision)
    program = retraced(_InOrder(module, signature), signature, examples)
    extents = _extents(program, signature)
    torch._inductor.aoti_compile_and_package(
        program, package_path=str(folder / "compiled.pt2"), inductor_configs=CODE
    )
    (folder / "extents.tmp").write_text(json.dumps(extents))
    (folder / "extents.tmp").rename(folder / "extents.json")


def _with_storage(module: nn.Module, device: torch.device, precision: Precision) -> nn.Module:
    assert isinstance(module, fx.GraphModule)
    move_literals(module, device)
    if precision.dtype is not None:
        cast_literals(module, precision)
    name_constants(module)
    storage = {
        name: torch.empty(value.shape, dtype=precision.of(value.dtype), device=device)
        for name, value in module.state_dict().items()
    }
    module.load_state_dict(storage, assign=True)
    return module.to(device).requires_grad_(False)


def _examples(
    signature: Signature, golden: bytes, device: torch.device, precision: Precision
) -> list[torch.Tensor]:
    inputs: list[Value] = [
        torch.zeros(
            [FREE_SIZE if size == -1 else size for size in spec.shape],
            dtype=TORCH_TYPES[spec.datatype],
        )
        for spec in signature.arguments
    ]
    if golden:
        inputs = list(decode_probe(golden, signature).inputs)
    cast = precision.cast(inputs)
    return [value.to(device) for value in cast if isinstance(value, torch.Tensor)]


def _extents(program: torch.export.ExportedProgram, signature: Signature) -> list[list[Any]]:
    """[least, most, symbol] of each dimension of each input."""
    names = program.graph_signature.user_inputs
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    ranges = program.range_constraints
    extents = [[_extent(size, ranges) for size in values[str(name)].shape] for name in names]
    if signature.max_batch_size > 1 and not all(dims[0][2] for dims in extents):
        raise InvalidArgument(
            "FIXED_BATCH", "the trace fixes the number of rows; such code serves one batch size"
        )
    return extents


def _extent(size: Any, ranges: Any) -> list[Any]:
    if isinstance(size, int):
        return [size, size, ""]
    symbol = size.node.expr
    bounds = ranges.get(symbol)
    if bounds is None:
        raise InvalidArgument("NOT_EXPORTABLE", f"an input's size is {symbol}, not a free one")
    # torch's tracer takes 0 and 1 for special and says 2; code for any number of rows does both.
    least = 0 if int(bounds.lower) <= 2 else int(bounds.lower)
    most = 2**62 if bounds.upper > 2**62 else int(bounds.upper)
    return [least, most, str(symbol)]


def main(argv: Sequence[str] | None = None) -> int:
    """Compiles; returns the exit code, its reason as the last line of standard error."""
    parser = argparse.ArgumentParser(prog="python -m inference_service.engines.compile_job")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--precision", required=True)
    given = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    try:
        compile_program(
            given.folder, given.model, torch.device(given.device), Precision(given.precision)
        )
    except HeadraceError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    except Exception as error:
        # torch's text: its first line says what, the rest is a trace.
        first = str(error).strip().partition("\n")[0]
        sys.stderr.write(f"{type(error).__name__}: {first}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
