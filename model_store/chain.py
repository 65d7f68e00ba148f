"""The deltas of a version: which of them a tensor still needs, and their bytes.

Decides how far back a tensor goes: from its digest step by step to bytes at hand, else to those
that the store holds. So a reader that holds any version on the way takes the later deltas only,
one that holds none takes the anchor and all of them, and what is left of a load that failed counts
too. Where the bytes end, and whether they are right, is for the reader to say.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

from chassis.errors import DataLoss
from model_store import delta
from model_store.delta import TensorDelta
from model_store.records import DeltaStep, Manifest, TensorEntry


@dataclass(frozen=True, slots=True)
class Way:
    """How a tensor comes to be.

    `start` names the bytes that the deltas at `steps`, positions in the manifest's in ascending
    order, are applied to; it is empty where the first of them brings all bytes itself.
    """

    start: str
    steps: tuple[int, ...]


class Chain:
    """The deltas of one version. `read` gives a blob's bytes, verified."""

    def __init__(self, manifest: Manifest, read: Callable[[str], bytes]) -> None:
        self._manifest = manifest
        self._read = read
        # (base digest, digest) by tensor, of every delta that was read.
        self._links: dict[int, dict[str, tuple[str, str]]] = {}
        self._kept: dict[int, dict[str, TensorDelta]] = {}
        self._room = 0

    def keep(self, room: int) -> None:
        """Lets deltas read from now on stay in memory while they fit into `room` bytes.

        Without it each is read again for every tensor that `content` makes.
        """
        self._room = room

    @property
    def room(self) -> int:
        """What is left of it."""
        return self._room

    def way(self, entry: TensorEntry, held: Container[str]) -> Way:
        """From the nearest of the bytes `held` and those that the store holds.

        Raises DataLoss (DELTA_BASE_MISMATCH) where no delta leads to the tensor, and what
        `changes` raises.
        """
        wanted = entry.digest
        steps: list[int] = []
        for index in reversed(range(len(self._manifest.deltas))):
            if wanted in held or wanted == entry.stored_digest:
                break
            if entry.name not in self._linked(index):
                continue
            base, made = self._linked(index)[entry.name]
            if made != wanted:
                raise self._mismatch(entry)
            steps.append(index)
            wanted = base
            if not base:
                break
        if wanted and wanted not in held and wanted != entry.stored_digest:
            raise self._mismatch(entry)
        return Way(wanted, tuple(reversed(steps)))

    def changes(self, index: int) -> dict[str, TensorDelta]:
        """The delta at that position of the manifest's, by tensor.

        Raises what `Store.read_blob` does, and DataLoss (DELTA_DAMAGED, DELTA_BASE_MISMATCH,
        SIZE_MISMATCH), naming the delta.
        """
        if index in self._kept:
            return self._kept[index]
        found, size_bytes = self._decoded(self._manifest.deltas[index])
        self._links[index] = {
            name: (tensor.base_digest, tensor.digest) for name, tensor in found.items()
        }
        if size_bytes <= self._room:
            self._room -= size_bytes
            self._kept[index] = found
        return found

    def content(self, entry: TensorEntry) -> bytes | bytearray:
        """The tensor's bytes, made of what the store holds alone; they are not digested.

        Raises what `way` does, and DataLoss (SIZE_MISMATCH).
        """
        way = self.way(entry, ())
        if not way.steps:
            return sized(self._read(entry.digest), entry)
        if way.start:
            made = bytearray(sized(self._read(way.start), entry))
        else:
            made = bytearray(entry.size_bytes)
        for index in way.steps:
            self.apply(index, self.changes(index)[entry.name], memoryview(made))
        return made

    def forget(self, index: int) -> None:
        """Lets go of the bytes of a delta."""
        self._kept.pop(index, None)

    def apply(self, index: int, tensor: TensorDelta, content: memoryview) -> None:
        """Makes one step of a tensor's way in `content`, in place.

        Raises DataLoss (DELTA_DAMAGED), naming the delta.
        """
        try:
            tensor.apply(content)
        except DataLoss as error:
            raise _at(self._manifest.deltas[index], error) from error

    def _decoded(self, step: DeltaStep) -> tuple[dict[str, TensorDelta], int]:
        try:
            blob = self._read(step.digest)
            if len(blob) != step.size_bytes:
                raise DataLoss(
                    "SIZE_MISMATCH",
                    f"it holds {len(blob)} bytes; the manifest says {step.size_bytes}",
                )
            return delta.decode(blob, self._manifest.model, step.base_version), len(blob)
        except DataLoss as error:
            raise _at(step, error) from error

    def _linked(self, index: int) -> dict[str, tuple[str, str]]:
        if index not in self._links:
            self.changes(index)
        return self._links[index]

    def _mismatch(self, entry: TensorEntry) -> DataLoss:
        return DataLoss(
            "DELTA_BASE_MISMATCH",
            f"the deltas of version {self._manifest.version} do not lead from stored bytes to "
            f"tensor {entry.name!r}",
        )


def sized(content: bytes, entry: TensorEntry) -> bytes:
    """The bytes of a tensor, if they are as many as its entry says.

    Raises DataLoss (SIZE_MISMATCH).
    """
    if len(content) == entry.size_bytes:
        return content
    raise DataLoss(
        "SIZE_MISMATCH",
        f"the blob of tensor {entry.name!r} holds {len(content)} bytes; the manifest says "
        f"{entry.size_bytes}",
    )


def _at(step: DeltaStep, error: DataLoss) -> DataLoss:
    """The error with the delta's name."""
    return DataLoss(
        error.reason, f"delta {step.digest[:23]} on version {step.base_version}: {error.message}"
    )
