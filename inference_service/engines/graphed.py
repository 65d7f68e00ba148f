"""Another engine's passes, recorded once for each batch size and repeated as a whole.

A recording has the addresses of the slot's tensors baked in. They stay what they are for as long as
the slot has its build, so that a swap rewrites tensors and records nothing; where they have moved
all the same, it is recorded anew and counted. What is recorded is decided here: sizes a third to a
half apart, the largest first. A batch between two sizes fills the larger one's rows in part; what
lies in the others is of an earlier batch, and what they give is not looked at.

A recording that gives something else than the pass it was made of is not used: then, and where
none can be made, `why_not` says why and every pass is computed plainly.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from chassis.telemetry import logger
from chassis.tensors import Signature
from headrace.values import Value, outputs_in_order
from inference_service.device.device import CannotRecord, Recording
from inference_service.device.graph_pool import GraphPool
from inference_service.engines.engine import Engine
from inference_service.engines.exported import shapes_of
from inference_service.faults import is_out_of_memory
from inference_service.precision import Tolerance, agree

log = logger(__name__)

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A recording of `rows` rows, the inputs it reads, and where the weights lay."""

    rows: int
    inputs: tuple[torch.Tensor, ...]
    recording: Recording
    addresses: tuple[int, ...]


def row_sizes(most: int) -> list[int]:
    """Batch sizes that are recorded, descending: powers of two and the sizes half way between."""
    powers = [2**power for power in range(most.bit_length())]
    between = [power + power // 2 for power in powers if power > 1]
    return sorted({most, *(size for size in (*powers, *between) if size <= most)}, reverse=True)


def why_never(signature: Signature) -> str:
    """Why no pass of a model of this signature is recorded; "" where it may be."""
    if signature.decoupled:
        return "a generative model computes one step after another"
    if any(spec.datatype == "BYTES" for spec in (*signature.arguments, *signature.results)):
        return "BYTES are computed on the host"
    return ""


class Graphed(Engine):
    """Repeats `inner`'s passes; `pool` is that of all slots of the model.

    `tolerance` is how far a recording's results may be from the pass it was made of.
    """

    def __init__(
        self, inner: Engine, signature: Signature, pool: GraphPool, tolerance: Tolerance
    ) -> None:
        self.inner = inner
        # It is what computes.
        self.name = inner.name
        self._signature = signature
        self._pool = pool
        self._tolerance = tolerance
        self._addresses: tuple[int, ...] = ()
        # By what the inputs' shapes are beside their rows: ascending in rows.
        self._recorded: dict[Shapes, list[_Recorded]] = {}
        self.why_not = why_never(signature)

    @property
    def sizes(self) -> list[int]:
        """Batch sizes recorded, ascending; 0 for a model without a batch dimension."""
        return sorted({one.rows for found in self._recorded.values() for one in found})

    @property
    def pool(self) -> GraphPool:
        """What its recordings share with the other slot's."""
        return self._pool

    def bind(self, storage: Mapping[str, torch.Tensor]) -> None:
        """Passes it on; what is recorded afterwards reads from there."""
        self.inner.bind(storage)
        self._addresses = tuple(tensor.data_ptr() for tensor in storage.values())

    def recorded_rows(self) -> Sequence[int]:
        """The largest first: the others then fit into its memory."""
        if self.why_not:
            return ()
        most = self._signature.max_batch_size
        return row_sizes(most) if most else (0,)

    def record(self, inputs: Sequence[Value]) -> None:
        """Records the pass of inputs like these, unless it is recorded where the weights lie."""
        if self.why_not:
            return
        rest, rows = self._split(shapes_of(inputs))
        known = [one for one in self._recorded.get(rest, ()) if one.rows == rows]
        if known and known[0].addresses == self._addresses:
            return
        try:
            made = self._made([v for v in inputs if isinstance(v, torch.Tensor)], rows, bool(known))
        except CannotRecord as error:
            self._give_up(f"not recorded: {error}")
            return
        except BaseException as error:
            if not is_out_of_memory(error):
                raise
            self._give_up("not recorded: the device has too little memory left")
            return
        others = [one for one in self._recorded.get(rest, ()) if one.rows != rows]
        self._recorded[rest] = sorted((*others, made), key=lambda one: one.rows)

    def forward(self, inputs: Sequence[Value]) -> Any:
        """The outputs in the signature's order; without a recording, what the inner one returns."""
        found, rows = self._find(inputs)
        if found is None:
            if self._recorded or self.why_not:
                self._pool.on_plain()
            return self.inner.forward(inputs)
        return self._repeated(found, inputs, rows)

    def _made(self, inputs: Sequence[torch.Tensor], rows: int, again: bool) -> _Recorded:
        """Raises CannotRecord and what the pass raises."""
        own = tuple(value.contiguous().clone() for value in inputs)
        # Also for what only a first pass does. On copies: a module may write to its inputs.
        wanted = self._in_order(self.inner.forward([value.clone() for value in own]))
        recording = self._pool.record(
            lambda: self._in_order(self.inner.forward(list(own))), again=again
        )
        made = _Recorded(rows, own, recording, self._addresses)
        found = self._repeated(made, inputs, rows)
        if not all(map(self._alike, found, wanted)):
            raise CannotRecord("repeated, the pass gives other results")
        return made

    def _repeated(self, one: _Recorded, inputs: Sequence[Value], rows: int) -> list[torch.Tensor]:
        with self._pool.turn():
            for own, value in zip(one.inputs, inputs, strict=True):
                assert isinstance(value, torch.Tensor)
                (own[:rows] if rows else own).copy_(value)
            one.recording.replay()
            # Copies within the turn: the next replay computes into the same memory.
            return [(v[:rows] if rows else v).clone() for v in one.recording.outputs]

    def _find(self, inputs: Sequence[Value]) -> tuple[_Recorded | None, int]:
        """The smallest recording that holds these inputs, and how many rows they have."""
        if not self._recorded:
            return None, 0
        rest, rows = self._split(shapes_of(inputs))
        recorded = self._recorded.get(rest, [])
        if self._signature.max_batch_size and not rows:
            return None, 0
        at = bisect_left(recorded, rows, key=lambda one: one.rows)
        if at == len(recorded) or recorded[at].addresses != self._addresses:
            return None, rows
        return recorded[at], rows

    def _split(self, shapes: Shapes) -> tuple[Shapes, int]:
        """What the shapes are beside their rows, and the rows: 0 without a batch dimension."""
        if not self._signature.max_batch_size:
            return shapes, 0
        return tuple(shape[1:] for shape in shapes), shapes[0][0]

    def _in_order(self, result: Any) -> list[torch.Tensor]:
        found = outputs_in_order(result, self._signature)
        return [value for value in found if isinstance(value, torch.Tensor)]

    def _alike(self, found: torch.Tensor, wanted: torch.Tensor) -> bool:
        return agree(found, wanted, self._tolerance)

    def _give_up(self, why: str) -> None:
        log.warning("forward passes are computed plainly", engine=self.name, why=why)
        self._recorded.clear()
        self.why_not = why
