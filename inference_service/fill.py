"""Bytes from the model store into an instance, each read at most once and believed only re-read.

Decides what need not be read again (a tensor unchanged since a version that one of the two slots
holds), how much is fetched before the idle slot's version is given up, and that what counts is what
lies in the slot afterwards: every tensor is digested where it was installed. Which deltas lead to a
tensor is `model_store.chain`'s part; each is applied to all tensors, in place, before the next.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from chassis.errors import DataLoss, FailedPrecondition
from headrace.program import TORCH_TYPES
from inference_service.buffers import changing, tensor_of, view_of
from inference_service.instance import Instance
from model_store.blobs import Blobs
from model_store.chain import Chain, Way, sized
from model_store.digests import digest
from model_store.records import Manifest, TensorEntry

_CPU = torch.device("cpu")
# Type and shape of a tensor.
_Kind = tuple[torch.dtype, tuple[int, ...]]


class Fill:
    """One version on its way into one instance.

    `holders` are instances whose tensors may be copied. `go_on` is called before each tensor and
    raises to stop.
    """

    def __init__(
        self,
        blobs: Blobs,
        manifest: Manifest,
        holders: tuple[Instance, ...],
        go_on: Callable[[], None],
    ) -> None:
        self._blobs = blobs
        self._manifest = manifest
        self._go_on = go_on
        # By kind, for equal bytes may be another type's: a digest names bytes only.
        self._held: dict[_Kind, dict[str, torch.Tensor]] = {}
        # The first holder comes last, so that its tensors win: nothing writes to what serves.
        for holder in reversed(holders):
            for name, named in holder.digests.items():
                tensor = holder.tensors[name]
                self._held.setdefault((tensor.dtype, tuple(tensor.shape)), {})[named] = tensor
        self._chain = Chain(manifest, self._read_blob)
        self._ways: dict[str, Way] = {}
        self._fetched: dict[str, bytes] = {}

    def fetch(self, staging_bytes: int) -> None:
        """Reads new blobs into memory, up to `staging_bytes`; `install` reads the others.

        A missing or damaged blob thus mostly shows before a slot is touched. Every delta needed is
        read here, so that its header is known; one that finds no room is read again later.
        To be called first. Raises what `Store.read_blob` does, DataLoss (SIZE_MISMATCH) and what
        `Chain.way` does.
        """
        self._chain.keep(staging_bytes)
        for entry in self._manifest.tensors:
            self._ways[entry.name] = self._chain.way(entry, self._usable(entry))
        room = self._chain.room
        for entry in self._manifest.tensors:
            start = self._ways[entry.name].start
            if not start or start in self._usable(entry) or start in self._fetched:
                continue
            room -= entry.size_bytes
            if room < 0:
                return
            self._fetched[start] = self._read(start, entry)

    def install(self, target: Instance) -> None:
        """Makes every tensor that `target` does not hold yet in its storage."""
        for entry in self._manifest.tensors:
            self._go_on()
            if target.digests.get(entry.name) != entry.digest:
                self._begin(entry, target)
        self._fetched.clear()
        for index in sorted({step for way in self._ways.values() for step in way.steps}):
            self._advance(index, target)

    def verify(self, target: Instance) -> None:
        """Digests every tensor where it lies.

        One that a forward pass had altered, or that came of one, is made anew from the store alone.
        Raises DataLoss (INSTALL_MISMATCH) and what reading raises.
        """
        for entry in self._manifest.tensors:
            self._go_on()
            tensor = target.tensors[entry.name]
            if digest(view_of(tensor)) != entry.digest:
                target.digests.pop(entry.name, None)
                self._remake(entry, target)
                if digest(view_of(tensor)) != entry.digest:
                    raise DataLoss(
                        "INSTALL_MISMATCH",
                        f"tensor {entry.name!r} differs from its digest after it was installed",
                    )
            target.digests[entry.name] = entry.digest

    def _usable(self, entry: TensorEntry) -> dict[str, torch.Tensor]:
        """Tensors at hand of the entry's kind, by digest."""
        return self._held.get((TORCH_TYPES[entry.datatype], entry.shape), {})

    def _begin(self, entry: TensorEntry, target: Instance) -> None:
        """Puts what the tensor is made of into its place."""
        start = self._ways[entry.name].start
        there = target.digests.pop(entry.name, None)
        if not start or there == start:
            return
        held = self._usable(entry).get(start)
        if held is not None:
            target.tensors[entry.name].copy_(held)
        else:
            self._copy(start, entry, target)

    def _advance(self, index: int, target: Instance) -> None:
        """Applies one delta to every tensor that needs it."""
        changes = self._chain.changes(index)
        # Tied tensors are one: it must not move twice.
        moved: set[int] = set()
        for entry in self._manifest.tensors:
            tensor = target.tensors[entry.name]
            if index in self._ways[entry.name].steps and tensor.data_ptr() not in moved:
                self._go_on()
                with changing(tensor) as content:
                    self._chain.apply(index, changes[entry.name], content)
                moved.add(tensor.data_ptr())
        self._chain.forget(index)

    def _remake(self, entry: TensorEntry, target: Instance) -> None:
        """Makes one tensor of nothing but what the store holds."""
        source = tensor_of(self._chain.content(entry), entry.datatype, entry.shape, _CPU)
        target.tensors[entry.name].copy_(source)

    def _copy(self, start: str, entry: TensorEntry, target: Instance) -> None:
        content = self._fetched.get(start)
        if content is None:
            content = self._read(start, entry)
        source = tensor_of(content, entry.datatype, entry.shape, _CPU)
        target.tensors[entry.name].copy_(source)

    def _read(self, name: str, entry: TensorEntry) -> bytes:
        return sized(self._read_blob(name), entry)

    def _read_blob(self, name: str) -> bytes:
        self._go_on()
        return self._blobs.read_blob(name)


def check_finite(instance: Instance) -> None:
    """Refuses NaN anywhere and infinity in a parameter; buffers may hold it (attention masks do).

    Raises FailedPrecondition (NON_FINITE).
    """
    parameters = instance.parameters()
    for name, tensor in instance.tensors.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        # NaN wins both; unlike isfinite() this allocates nothing and is 50 times faster.
        least, most = torch.aminmax(tensor)
        bad = bool(least.isnan()) or (
            name in parameters and not bool(least.isfinite() & most.isfinite())
        )
        if bad:
            found = "NaN" if least.isnan() else "an infinity"
            raise FailedPrecondition("NON_FINITE", f"tensor {name!r} holds {found}")
