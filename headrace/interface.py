"""What a module takes and gives, found out from whatever its user has at hand.

Decides how a signature follows from a headrace.Model, from TensorSpecs, from example inputs or
from the newest stored version, and which golden inputs go with it. A name comes from forward's
arguments where inputs are given without names; a lone output is "output", several are "output_0"
and so on, and a dict's outputs keep their keys.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from chassis.errors import DataLoss, InvalidArgument
from chassis.telemetry import logger
from chassis.tensors import Signature, TensorSpec
from headrace.model import Model
from headrace.probe import decode_probe, run, tolerances
from headrace.program import DATATYPES, load_program
from headrace.values import (
    Value,
    close,
    copied,
    datatype_of_value,
    fits,
    outputs_in_order,
    uses_bytes,
    value_of_array,
    zero_state,
)
from headrace.weights import State, Table, table_of
from model_store.records import Manifest, Program, ProgramKind
from model_store.store import Store

log = logger(__name__)

GOLDEN_ROWS = 4
DEFAULT_MAX_BATCH_SIZE = 64

# A tensor, several in the order of forward's arguments, or several by name.
Example = torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Interface:
    """A signature, a golden value an input and a state, and a stored program if one is reused."""

    signature: Signature
    golden: tuple[Value, ...]
    program: Program | None = None


def from_model(model: Model) -> Interface:
    """The Model's own signature, and the first rows of its samples.

    Raises InvalidArgument (BAD_SPEC, BAD_NAME, BAD_EXAMPLE).
    """
    signature = model.signature
    return Interface(signature, _golden_call(model.samples()[0], signature))


def from_specs(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec] | None,
    max_batch_size: int,
    example: Example | None,
) -> Interface:
    """The specs given; outputs left out are found by running `module` once.

    Golden inputs are the example's first rows, else drawn. Raises InvalidArgument (BAD_SPEC,
    BAD_EXAMPLE, BAD_OUTPUT, NEEDS_IMPORT_PATH).
    """
    shape_only = Signature(tuple(inputs), tuple(inputs), max_batch_size)
    if uses_bytes(shape_only):
        raise no_import_path()
    if example is None:
        golden = _golden_of(_drawn(shape_only), shape_only.inputs, shape_only)
    else:
        named = dict(zip((spec.name for spec in inputs), _values(example, inputs), strict=True))
        golden = _golden_of(named, shape_only.inputs, shape_only)
    given = tuple(outputs) if outputs else _outputs_of(module, golden, max_batch_size)
    return Interface(Signature(shape_only.inputs, given, max_batch_size), golden)


def from_example(
    module: nn.Module,
    example: Example,
    outputs: Sequence[TensorSpec] | None,
    max_batch_size: int,
) -> Interface:
    """Input specs from example tensors; the first dimension is the batch unless it does not batch.

    Raises InvalidArgument (BAD_EXAMPLE, BAD_OUTPUT).
    """
    named = _named(module, example)
    inputs = tuple(_spec(name, tensor, max_batch_size) for name, tensor in named.items())
    return from_specs(module, inputs, outputs, max_batch_size, named)


def from_stored(store: Store, name: str, module: nn.Module, state: State) -> Interface:
    """Signature, program and golden inputs of the newest version of `name`.

    Only if its tensors are `state`'s by name, dtype and shape, and its program computes with them
    what `module` computes. A version whose record is damaged is passed over. Raises InvalidArgument
    (NO_SIGNATURE) with what to pass otherwise, DataLoss (MANIFEST_DAMAGED) where all are damaged.
    """
    versions = store.versions(name)
    if not versions:
        raise no_signature(f"model {name!r} has no stored version to take its signature from")
    manifest = _newest_readable(store, name, versions)
    table = tuple((entry.name, entry.datatype, entry.shape) for entry in manifest.tensors)
    different = _first_difference(table, table_of(state))
    if different:
        raise no_signature(f"version {manifest.version} of {name!r} has other tensors: {different}")
    golden = _stored_golden(store, manifest)
    if manifest.program.kind is ProgramKind.EXPORTED:
        content = store.read_blob(manifest.program.digest)
        _check_program(content, module, state, golden, manifest)
    return Interface(manifest.signature, golden, manifest.program)


def _newest_readable(store: Store, name: str, versions: Sequence[int]) -> Manifest:
    for version in reversed(versions[1:]):
        try:
            return store.manifest(name, version)
        except DataLoss as error:
            log.warning("passed over a version", model=name, version=version, why=error.message)
    return store.manifest(name, versions[0])


def _check_program(
    content: bytes,
    module: nn.Module,
    state: State,
    golden: tuple[Value, ...],
    manifest: Manifest,
) -> None:
    program = load_program(content)
    program.load_state_dict(state, assign=True)
    absolute, relative = tolerances(state.values()) if state else (0.0, 0.0)
    with torch.no_grad():
        arguments = [copied(value, torch.device("cpu")) for value in golden]
        theirs = outputs_in_order(program(*arguments), manifest.signature)
    ours = outputs_in_order(run(module, golden), manifest.signature)
    for spec, one, other in zip(manifest.signature.results, ours, theirs, strict=True):
        if not close(one, other, absolute, relative):
            raise no_signature(
                f"output {spec.name!r} differs from what the program of version "
                f"{manifest.version} of {manifest.model!r} computes with the same weights"
            )


def no_import_path() -> InvalidArgument:
    """Why a version that needs Python code on a replica cannot be published."""
    return InvalidArgument(
        "NEEDS_IMPORT_PATH",
        "torch has no BYTES tensors and exports no generator: a model with either runs as Python "
        "code on a replica; publish it from a headrace.Model defined in an importable module",
    )


def no_signature(why: str) -> InvalidArgument:
    """Why it is not known what a module takes and gives, and what to pass."""
    return InvalidArgument(
        "NO_SIGNATURE",
        f"{why}; pass example_inputs=, or inputs= and outputs=, or a headrace.Model",
    )


def _first_difference(stored: Table, ours: Table) -> str:
    for entry in stored:
        if entry not in ours:
            return f"it has {entry[0]!r} as {entry[1]} {list(entry[2])}"
    for entry in ours:
        if entry not in stored:
            return f"it lacks {entry[0]!r} as {entry[1]} {list(entry[2])}"
    return ""


def _stored_golden(store: Store, manifest: Manifest) -> tuple[Value, ...]:
    signature = manifest.signature
    if manifest.probe is None:
        return _golden_call(_drawn(signature), signature)
    return decode_probe(store.read_blob(manifest.probe.digest), signature).inputs


def _drawn(signature: Signature) -> dict[str, Any]:
    drawn = Model()
    drawn.inputs, drawn.max_batch_size = signature.inputs, signature.max_batch_size
    return drawn.samples()[0]


def _named(module: nn.Module, example: Example) -> dict[str, torch.Tensor]:
    parameters = _forward_arguments(module)
    if isinstance(example, Mapping):
        if set(example) <= set(parameters):
            # Forward's order, whatever the dict's.
            return {name: example[name] for name in parameters if name in example}
        return dict(example)
    values = [example] if isinstance(example, torch.Tensor) else list(example)
    if len(parameters) < len(values):
        # forward(*args): there are no names to take.
        parameters = [f"input_{index}" for index in range(len(values))]
    return dict(zip(parameters, values, strict=False))


def _forward_arguments(module: nn.Module) -> list[str]:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in positional]


def _values(example: Example, inputs: Sequence[TensorSpec]) -> list[torch.Tensor]:
    names = [spec.name for spec in inputs]
    if isinstance(example, Mapping):
        values = [example[name] for name in names if name in example]
        given = list(example)
    else:
        values = [example] if isinstance(example, torch.Tensor) else list(example)
        given = [f"{len(values)} tensors"]
    if len(values) != len(names):
        raise InvalidArgument("BAD_EXAMPLE", f"example_inputs holds {given}; expected {names}")
    return values


def _spec(name: str, tensor: Any, max_batch_size: int) -> TensorSpec:
    if not isinstance(tensor, torch.Tensor) or tensor.dtype not in DATATYPES:
        what = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise InvalidArgument(
            "BAD_EXAMPLE", f"{name!r} is {what}; expected a tensor of an OIP datatype"
        )
    shape = tuple(tensor.shape)
    if max_batch_size:
        if not shape:
            raise InvalidArgument(
                "BAD_EXAMPLE",
                f"{name!r} is a scalar, without a batch dimension; pass max_batch_size=0 for a "
                "model that does not batch",
            )
        shape = (-1, *shape[1:])
    return TensorSpec(name, DATATYPES[tensor.dtype], shape)


def _golden_call(arrays: Mapping[str, Any], signature: Signature) -> tuple[Value, ...]:
    """Golden inputs, and the states of a sequence that begins: zeros."""
    golden = _golden_of(arrays, signature.inputs, signature)
    rows = len(golden[0]) if signature.max_batch_size else 0
    return golden + tuple(zero_state(spec, rows) for spec in signature.states)


def _golden_of(
    arrays: Mapping[str, Any], inputs: Sequence[TensorSpec], signature: Signature
) -> tuple[Value, ...]:
    rows = min(GOLDEN_ROWS, signature.max_batch_size) if signature.max_batch_size else None
    golden = tuple(_golden_value(arrays.get(spec.name), spec, rows) for spec in inputs)
    if rows is not None and len({len(value) for value in golden}) != 1:
        raise InvalidArgument("BAD_EXAMPLE", "the inputs' examples differ in their number of rows")
    return golden


def _golden_value(given: Any, spec: TensorSpec, rows: int | None) -> Value:
    if given is None:
        raise InvalidArgument("BAD_EXAMPLE", f"input {spec.name!r}: there is no example")
    try:
        value = (
            given.detach().cpu()
            if isinstance(given, torch.Tensor)
            else value_of_array(given, spec.datatype)
        )
    except (InvalidArgument, TypeError) as error:
        raise InvalidArgument("BAD_EXAMPLE", f"input {spec.name!r}: {error}") from error
    if not fits(value, spec, 0) or (rows and not len(value)):
        raise InvalidArgument(
            "BAD_EXAMPLE",
            f"input {spec.name!r}: the example is {datatype_of_value(value)} "
            f"{list(value.shape)}; expected {spec.datatype} {list(spec.shape)}",
        )
    # Without a batch there is nothing to shorten, and a scalar cannot be.
    first = value[:rows] if rows else value
    return first.clone() if isinstance(first, torch.Tensor) else first.copy()


def _outputs_of(
    module: nn.Module, golden: tuple[Value, ...], max_batch_size: int
) -> tuple[TensorSpec, ...]:
    result = run(module, golden)
    if isinstance(result, torch.Tensor):
        named = {"output": result}
    elif isinstance(result, Mapping):
        named = dict(result)
    else:
        named = {f"output_{index}": tensor for index, tensor in enumerate(result)}
    return tuple(_spec(name, tensor, max_batch_size) for name, tensor in named.items())
