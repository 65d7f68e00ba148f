"""A module with weights of its own: what a slot holds and a batch runs on.

Decides what of a forward pass is believed, and in which precision its weights lie. How it is
computed is its engine's (`engines`): eagerly, as an exported graph, or compiled.
A decoupled model's `generate` is called with the module and the inputs by name; each step of it is
one response. Filling the weights is left to `fill`, when to run to the executor and the rehearsal,
what an exception means to `faults`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from chassis.errors import FailedPrecondition, InvalidArgument
from chassis.tensors import Signature
from headrace.probe import Generate, named_inputs
from headrace.program import DATATYPES, TORCH_TYPES
from headrace.values import Value, datatype_of_value, fits, outputs_in_order
from inference_service.buffers import changing, view_of
from inference_service.device.graph_pool import GraphCounts
from inference_service.device.handover import Handover
from inference_service.device.slot_memory import laid_out
from inference_service.engines.engine import Engine
from inference_service.engines.graphed import Graphed
from inference_service.faults import BadOutput, reraise
from inference_service.precision import PUBLISHED, Precision
from inference_service.staging import AT_ONCE, Staging
from model_store.records import Manifest, Program, TensorEntry


@dataclass(frozen=True, slots=True)
class Kept:
    """What an instance held at one moment: contents of some tensors, digests of all."""

    contents: dict[str, torch.Tensor]
    digests: dict[str, str]
    cast_digests: dict[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class GraphReport:
    """The batch sizes recorded, what became of recordings, and why there are none."""

    sizes: tuple[int, ...] = ()
    counts: GraphCounts = field(default_factory=GraphCounts)
    why_not: str = ""


class Instance:
    """One build of a program. Not thread-safe: one thread at a time runs or fills it.

    `engine` computes with `module`'s tensors, which are cast to `precision` when they are
    installed; `staging` says how fast, `handover` in which order with batches. `generate` is the
    method of that name of a decoupled model.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        program: Program,
        signature: Signature,
        device: torch.device,
        engine: Engine,
        precision: Precision = PUBLISHED,
        generate: Generate | None = None,
        why_not: str = "",
        staging: Staging = AT_ONCE,
        handover: Handover | None = None,
        no_graphs: str = "",
    ) -> None:
        # Why recordings that were asked for cannot be had here; "" where they can, or none were.
        self._no_graphs = no_graphs
        self.handover = handover or Handover()
        self.program = program
        self.signature = signature
        self.device = device
        self.tensors: dict[str, torch.Tensor] = {}
        # What each tensor holds; a name is absent while its bytes are unknown.
        self.digests: dict[str, str] = {}
        self.engine = engine
        # Why it is not the engine asked for; "" where it is.
        self.why_not = why_not
        self.precision = precision
        self._module = module
        self._staging = staging
        self._generate = generate
        # Of the program: what lies in the slot may be cast.
        self._table = {
            name: (DATATYPES.get(value.dtype, str(value.dtype)), tuple(value.shape))
            for name, value in module.state_dict().items()
        }
        # Names of tensors that are one memory, so that they cannot hold different contents.
        self.tied = _tied(module)
        # Digests of what tensors that are cast have to hold, by digest and datatype as published.
        self._cast_digests: dict[tuple[str, str], str] = {}

    def fits(self, manifest: Manifest) -> bool:
        """Whether `manifest`'s weights belong into this build."""
        return self.program == manifest.program and self.signature == manifest.signature

    def table(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """(datatype, shape) of every parameter and persistent buffer, by name, as published."""
        return self._table

    def materialize(self, storage: dict[str, torch.Tensor] | None = None) -> None:
        """Gives every tensor storage on the device, with contents still to be filled.

        `storage` is that of another instance of the same program and precision, to be shared."""
        if self.tensors:
            return
        state = self._module.state_dict()
        if storage is not None or any(value.is_meta for value in state.values()):
            storage = storage or laid_out(
                {
                    name: (self.precision.of(value.dtype), tuple(value.shape))
                    for name, value in state.items()
                },
                self.device,
            )
            self._module.load_state_dict(storage, assign=True)
        self._module.to(device=self.device, dtype=self.precision.dtype).requires_grad_(False)
        self.tensors = {name: value.detach() for name, value in self._module.state_dict().items()}
        self.engine.bind(self.tensors)

    def put(self, entry: TensorEntry, source: torch.Tensor) -> None:
        """Installs a tensor as published, from any device, and notes what then has to lie here."""
        target = self.tensors[entry.name]
        if target.dtype is not source.dtype:
            source = source.to(target.dtype)
            self._cast_digests[entry.digest, entry.datatype] = self._staging.digest_of(source)
        self._staging.copy(source, target)

    def copy_from(self, other: Instance, name: str, entry: TensorEntry) -> bool:
        """Installs the same published tensor from `other`'s `name`; False where that differs."""
        source, target = other.tensors[name], self.tensors[entry.name]
        if source.dtype is not target.dtype or tuple(source.shape) != entry.shape:
            # Equal bytes may be another type's: a digest names bytes only.
            return False
        key = (entry.digest, entry.datatype)
        if self.is_cast(entry):
            if key not in other._cast_digests:
                return False
            self._cast_digests[key] = other._cast_digests[key]
        self._staging.copy(source, target)
        return True

    def takes_in_place(self, entry: TensorEntry) -> bool:
        """Whether `place` gives a place for the tensor, once there is storage."""
        dtype = TORCH_TYPES[entry.datatype]
        return self.device.type == "cpu" and self.precision.of(dtype) is dtype

    def place(self, entry: TensorEntry) -> memoryview | None:
        """The tensor's own bytes, to be filled as they were published; None where they lie on
        another device, in another datatype or not densely."""
        tensor = self.tensors[entry.name]
        if not self.takes_in_place(entry) or not tensor.is_contiguous():
            return None
        return view_of(tensor)

    def is_cast(self, entry: TensorEntry, name: str = "") -> bool:
        """Whether the tensor, or the one of that `name`, lies here in another datatype than the
        entry was published in."""
        return DATATYPES.get(self.tensors[name or entry.name].dtype) != entry.datatype

    def intact(self, entry: TensorEntry) -> bool:
        """Whether the slot's memory, read back, holds what `entry` means in this precision."""
        expected: str | None = entry.digest
        if self.is_cast(entry):
            expected = self._cast_digests.get((entry.digest, entry.datatype))
        return self._staging.digest_of(self.tensors[entry.name]) == expected

    @contextmanager
    def changing(self, name: str) -> Iterator[memoryview]:
        """The bytes of the tensor of that name, to be changed."""
        tensor = self.tensors[name]
        with changing(tensor, self._staging.copy) as content:
            yield content

    def forget_others(self, manifest: Manifest) -> None:
        """Lets go of what it noted for tensors of other versions."""
        wanted = {(entry.digest, entry.datatype) for entry in manifest.tensors}
        self._cast_digests = {
            key: value for key, value in self._cast_digests.items() if key in wanted
        }

    def kept(self, entries: Iterable[TensorEntry], room: int) -> Kept:
        """Copies in host memory of what lies here now of the tensors named, up to `room` bytes."""
        contents: dict[str, torch.Tensor] = {}
        for entry in entries:
            tensor = self.tensors[entry.name]
            room -= tensor.numel() * tensor.element_size()
            if room < 0:
                break
            contents[entry.name] = tensor.to("cpu", copy=True)
        return Kept(contents, dict(self.digests), dict(self._cast_digests))

    def restore(self, kept: Kept) -> None:
        """Copies them back; a tensor that was not kept counts as unknown if it has changed."""
        self._cast_digests = dict(kept.cast_digests)
        for name, tensor in kept.contents.items():
            self.tensors[name].copy_(tensor)
            self.digests[name] = kept.digests[name]

    @property
    def graphs(self) -> GraphReport | None:
        """Its recorded passes; None where none are asked for."""
        engine = self.engine
        if isinstance(engine, Graphed):
            return GraphReport(tuple(engine.sizes), engine.pool.counts(), engine.why_not)
        return GraphReport(why_not=self._no_graphs) if self._no_graphs else None

    def parameters(self) -> set[str]:
        """Names of the tensors that are parameters; the others are buffers."""
        return {name for name, _ in self._module.named_parameters(remove_duplicate=False)}

    def run(self, inputs: Sequence[Value]) -> list[Value]:
        """The outputs and new states in signature order, for inputs and states in that order.

        All on the device. To be called in inference mode. Raises InvalidArgument
        (UNSUPPORTED_SHAPE, UNSUPPORTED_VALUE), ResourceExhausted (OUT_OF_MEMORY), BadOutput,
        ModelFailure, and a device fault as it is.
        """
        try:
            result = self.engine.forward(self.precision.cast(inputs))
        except BaseException as error:
            reraise(error)
        return self._checked(result, self._rows(inputs))

    def record(self, inputs_of: Callable[[int], list[Value]]) -> None:
        """Lets the engine record its passes, if it does; `inputs_of` gives a batch of so many rows,
        on the device. To be called in inference mode, after a warm-up; again it does nothing."""
        for rows in self.engine.recorded_rows():
            self.engine.record(self.precision.cast(inputs_of(rows)))

    def generate(self, inputs: Sequence[Value]) -> Iterator[list[Value]]:
        """The responses of a decoupled model, each computed when it is asked for.

        A generator: close it to end the model's early. To be stepped in inference mode; a step
        raises what `run` does. The inputs must not change meanwhile.
        """
        rows = self._rows(inputs)
        responses = self._begun(named_inputs(self.signature, self.precision.cast(inputs)))
        try:
            while True:
                try:
                    result = next(responses)
                except StopIteration:
                    return
                except BaseException as error:
                    reraise(error)
                yield self._checked(result, rows)
        finally:
            close = getattr(responses, "close", None)
            if close is not None:
                close()

    def _begun(self, named: dict[str, Value]) -> Iterator[Any]:
        assert self._generate is not None
        try:
            return iter(self._generate(self._module, named))
        except BaseException as error:
            reraise(error)

    def _rows(self, inputs: Sequence[Value]) -> int:
        return inputs[0].shape[0] if self.signature.max_batch_size else 0

    def _checked(self, result: Any, rows: int) -> list[Value]:
        try:
            outputs = outputs_in_order(result, self.signature)
        except InvalidArgument as error:
            raise BadOutput(error.message) from error
        outputs = self.precision.restored(outputs, self.signature)
        for spec, value in zip(self.signature.results, outputs, strict=True):
            if not fits(value, spec, rows):
                raise BadOutput(
                    f"output {spec.name!r} is {datatype_of_value(value)} of shape "
                    f"{list(value.shape)} for {rows} rows; the signature promises {spec.datatype} "
                    f"of {list(spec.shape)}"
                )
        return outputs

    def __repr__(self) -> str:
        return (
            f"Instance({self.program.kind}, {self.engine.name}, {self.precision.name}, "
            f"{len(self.tensors)} tensors on {self.device})"
        )


def _tied(module: nn.Module) -> list[list[str]]:
    state = module.state_dict()
    if any(value.is_meta for value in state.values()):
        # It gets storage of its own for each.
        return []
    names: dict[tuple[object, ...], list[str]] = {}
    for name, value in state.items():
        # As they lie: a square matrix and its transpose differ in bytes, rightly.
        key = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        if value.numel():
            names.setdefault(key, []).append(name)
    return [tied for tied in names.values() if len(tied) > 1]


def check_supported(signature: Signature) -> None:
    """Refuses a signature with tensors that an exported program cannot have.

    Raises FailedPrecondition (UNSUPPORTED_DATATYPE, DECOUPLED_PROGRAM).
    """
    for spec in (*signature.inputs, *signature.outputs):
        if spec.datatype not in TORCH_TYPES:
            raise FailedPrecondition(
                "UNSUPPORTED_DATATYPE",
                f"tensor {spec.name!r} is {spec.datatype}, which torch has no type for; an "
                f"exported program has {', '.join(TORCH_TYPES)}",
            )
    if signature.decoupled:
        raise FailedPrecondition(
            "DECOUPLED_PROGRAM",
            "a decoupled model is Python code; an exported program cannot be one",
        )
