"""Bytes from the model store into an instance, each read at most once and believed only re-read.

Decides what need not be read again (a tensor unchanged since a version that one of the two slots
holds), what is fetched before the idle slot's version is given up and what is read right into its
place, and that what counts is what lies in the slot afterwards: every tensor is digested where it
was installed. Which deltas lead to a
tensor is `model_store.chain`'s part; each is applied to all tensors, in place, before the next. A
tensor that lies in another precision than it was published in is made beside the slot instead.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from chassis.errors import DataLoss, FailedPrecondition
from inference_service.buffers import tensor_of
from inference_service.instance import Instance
from inference_service.staging import AT_ONCE, Staging
from model_store.blobs import PART_BYTES, Blobs
from model_store.chain import Chain, Way, sized
from model_store.records import Manifest, TensorEntry

_CPU = torch.device("cpu")
# A tensor so large is read into its place: in memory beside it would cost more than all the rest.
IN_PLACE_BYTES = 1024 * 1024
# Datatype and shape of a tensor, as published.
_Kind = tuple[str, tuple[int, ...]]
# Where a tensor lies: an instance and its name there.
_Place = tuple[Instance, str]


class Fill:
    """One version on its way into one instance: `fetch`, `install`, `verify`, each once.

    `holders` are instances whose tensors may be copied. `go_on` is called before each tensor and
    raises to stop; `staging` says how fast bytes are read.
    """

    def __init__(
        self,
        blobs: Blobs,
        manifest: Manifest,
        holders: tuple[Instance, ...],
        go_on: Callable[[], None],
        staging: Staging = AT_ONCE,
    ) -> None:
        self._blobs = blobs
        self._manifest = manifest
        self._go_on = go_on
        self._staging = staging
        # By kind, for equal bytes may be another type's: a digest names bytes only.
        self._held: dict[_Kind, dict[str, _Place]] = {}
        # The first holder comes last, so that its tensors win: nothing writes to what serves.
        for holder in reversed(holders):
            for name, named in holder.digests.items():
                self._held.setdefault(holder.table()[name], {})[named] = (holder, name)
        self._sizes = manifest.blob_sizes()
        self._chain = Chain(manifest, self._read_blob)
        self._ways: dict[str, Way] = {}
        self._fetched: dict[str, bytes] = {}
        # What was read into its place: the entry of each blob, which others have too.
        self._brought: dict[str, TensorEntry] = {}
        # Digests of what `fetch` left to be read into its place.
        self.left: set[str] = set()

    def fetch(self, staging_bytes: int, target: Instance | None = None) -> None:
        """Reads new blobs into memory, up to `staging_bytes`; `install` reads the others, and
        large tensors that `target` takes in place.

        A missing or damaged blob of another tensor thus shows before a slot is touched. Every
        delta needed is read here, so that its header is known; one that finds no room is read
        again later. May be left out.
        Raises what `Store.read_blob` does, DataLoss (SIZE_MISMATCH) and what `Chain.way` does.
        """
        self._chain.keep(staging_bytes)
        self._plan()
        room = self._chain.room
        for entry in self._manifest.tensors:
            start = self._ways[entry.name].start
            if not start or start in self._usable(entry) or start in self._fetched:
                continue
            if entry.size_bytes >= IN_PLACE_BYTES and target and target.takes_in_place(entry):
                self.left.add(start)
                continue
            room -= entry.size_bytes
            if room < 0:
                return
            self._fetched[start] = self._read(start, entry)

    def install(self, target: Instance) -> None:
        """Makes every tensor that `target` does not hold yet in its storage."""
        self._plan()
        for entry in self._manifest.tensors:
            self._go_on()
            if target.digests.get(entry.name) != entry.digest:
                self._begin(entry, target)
        self._fetched.clear()
        self._brought.clear()
        for index in sorted({step for way in self._ways.values() for step in way.steps}):
            self._advance(index, target)

    def verify(self, target: Instance) -> None:
        """Digests every tensor where it lies.

        One that a forward pass had altered, or that came of one, is made anew from the store alone.
        Raises DataLoss (INSTALL_MISMATCH) and what reading raises.
        """
        mended = False
        for entry in self._manifest.tensors:
            self._go_on()
            if not target.intact(entry):
                mended = True
                target.digests.pop(entry.name, None)
                self._put(self._chain.content(entry), entry, target)
                self._check_intact(entry, target)
            target.digests[entry.name] = entry.digest
        if mended:
            # What was written late may have gone over what was read before: tensors may overlap.
            for entry in self._manifest.tensors:
                self._go_on()
                self._check_intact(entry, target)
        target.forget_others(self._manifest)

    def _check_intact(self, entry: TensorEntry, target: Instance) -> None:
        if not target.intact(entry):
            target.digests.pop(entry.name, None)
            raise DataLoss(
                "INSTALL_MISMATCH",
                f"tensor {entry.name!r} differs from its digest after it was installed",
            )

    def _plan(self) -> None:
        if not self._ways:
            for entry in self._manifest.tensors:
                self._ways[entry.name] = self._chain.way(entry, self._usable(entry))

    def _usable(self, entry: TensorEntry) -> dict[str, _Place]:
        """Tensors at hand of the entry's kind, by digest.

        A cast one is good for a copy alone: the words that deltas change are not in it.
        """
        held = self._held.get((entry.datatype, entry.shape), {})
        return {
            named: (holder, name)
            for named, (holder, name) in held.items()
            if named == entry.digest or not holder.is_cast(entry, name)
        }

    def _begin(self, entry: TensorEntry, target: Instance) -> None:
        """Puts what the tensor is made of into its place."""
        way = self._ways[entry.name]
        there = target.digests.pop(entry.name, None)
        cast = target.is_cast(entry)
        if not cast and (not way.start or there == way.start):
            return
        held = self._usable(entry).get(way.start)
        if held is not None and target.copy_from(*held, entry):
            return
        if cast:
            self._put(self._made(entry, way), entry, target)
            self._ways[entry.name] = Way(entry.digest, ())
        else:
            self._bring(way.start, entry, target)

    def _advance(self, index: int, target: Instance) -> None:
        """Applies one delta to every tensor that needs it."""
        changes = self._chain.changes(index)
        # Tied tensors are one: it must not move twice.
        moved: set[int] = set()
        for entry in self._manifest.tensors:
            tensor = target.tensors[entry.name]
            if index in self._ways[entry.name].steps and tensor.data_ptr() not in moved:
                self._go_on()
                with target.changing(entry.name) as content:
                    self._chain.apply(index, changes[entry.name], content)
                moved.add(tensor.data_ptr())
        self._chain.forget(index)

    def _made(self, entry: TensorEntry, way: Way) -> bytes | bytearray:
        """The tensor's bytes, made beside the slot."""
        if way.start not in ("", entry.stored_digest):
            return self._chain.content(entry)
        if not way.steps:
            return self._start(way, entry)
        content = bytearray(self._start(way, entry) if way.start else entry.size_bytes)
        for index in way.steps:
            changes = self._chain.changes(index)
            self._chain.apply(index, changes[entry.name], memoryview(content))
        return content

    def _bring(self, start: str, entry: TensorEntry, target: Instance) -> None:
        """Puts the bytes where the tensor lies, by way of memory beside it only where need be.

        Nothing tells yet whether they are right: `verify` reads what it finds wrong once more.
        """
        place = target.place(entry)
        if start in self._fetched or place is None or entry.size_bytes != len(place):
            self._put(self._start(Way(start, ()), entry), entry, target)
            return
        # One blob under two names is read once; `verify` digests both.
        brought = self._brought.get(start)
        if brought is not None and target.copy_from(target, brought.name, entry):
            return
        self._blobs.read_blob_into(start, place, self._before_part)
        self._brought[start] = entry

    def _start(self, way: Way, entry: TensorEntry) -> bytes:
        content = self._fetched.get(way.start)
        return self._read(way.start, entry) if content is None else content

    def _put(self, content: bytes | bytearray, entry: TensorEntry, target: Instance) -> None:
        target.put(entry, tensor_of(content, entry.datatype, entry.shape, _CPU))

    def _read(self, name: str, entry: TensorEntry) -> bytes:
        return sized(self._read_blob(name), entry)

    def _read_blob(self, name: str) -> bytes:
        self._go_on()
        # A blob is read and digested as a whole; who waits for that may be told to stop.
        for left in range(self._sizes.get(name, 0), 0, -PART_BYTES):
            self._before_part(min(left, PART_BYTES))
        return self._blobs.read_blob(name)

    def _before_part(self, size: int) -> None:
        self._go_on()
        self._staging.wait(size)


def check_finite(
    instance: Instance, staging: Staging = AT_ONCE, go_on: Callable[[], None] = lambda: None
) -> None:
    """Refuses NaN anywhere and infinity in a parameter; buffers may hold it (attention masks do).

    `go_on` is called before each part and raises to stop. Raises FailedPrecondition (NON_FINITE).
    """
    parameters = instance.parameters()
    for name, tensor in instance.tensors.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        for part in _parts(tensor):
            go_on()
            staging.wait(part.numel() * part.element_size())
            _check_finite(part, name, bounded=name in parameters)


def _parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    if not tensor.is_contiguous():
        return (tensor,)
    return torch.split(tensor.view(-1), PART_BYTES // tensor.element_size())


def _check_finite(part: torch.Tensor, name: str, *, bounded: bool) -> None:
    # NaN wins both; unlike isfinite() this allocates nothing and is 50 times faster.
    least, most = torch.aminmax(part)
    if least.isnan() or (bounded and not bool(least.isfinite() & most.isfinite())):
        found = "NaN" if least.isnan() else "an infinity"
        raise FailedPrecondition("NON_FINITE", f"tensor {name!r} holds {found}")
