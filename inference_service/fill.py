"""Bytes from the model store into an instance, each read at most once and believed only re-read.

Decides what need not be read again (a tensor unchanged since a version that one of the two slots
holds), how much is fetched before the idle slot's version is given up, and that what counts is what
lies in the slot afterwards: every tensor is digested where it was installed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from chassis.errors import DataLoss, FailedPrecondition
from inference_service.buffers import tensor_of
from inference_service.instance import Instance
from inference_service.staging import AT_ONCE, Staging
from model_store.records import Manifest, TensorEntry
from model_store.store import Store

_CPU = torch.device("cpu")


class Fill:
    """One version on its way into one instance.

    `holders` are instances whose tensors may be copied. `go_on` is called before each tensor and
    raises to stop; `staging` says how fast the store is read.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        holders: tuple[Instance, ...],
        go_on: Callable[[], None],
        staging: Staging = AT_ONCE,
    ) -> None:
        self._store = store
        self._manifest = manifest
        self._go_on = go_on
        self._staging = staging
        self._held = {
            holder.digests[name]: (holder, name)
            for holder in holders
            for name in holder.tensors
            if name in holder.digests
        }
        self._fetched: dict[str, bytes] = {}

    def fetch(self, staging_bytes: int) -> None:
        """Reads new blobs into memory, up to `staging_bytes`; `install` reads the others.

        A missing or damaged blob thus mostly shows before a slot is touched. Raises what
        `Store.read_blob` does, and DataLoss (SIZE_MISMATCH).
        """
        room = staging_bytes
        for entry in self._manifest.tensors:
            if entry.digest in self._held or entry.digest in self._fetched:
                continue
            room -= entry.size_bytes
            if room < 0:
                return
            self._fetched[entry.digest] = self._read(entry)

    def install(self, target: Instance) -> None:
        """Copies every tensor that `target` does not hold yet into its storage."""
        for entry in self._manifest.tensors:
            self._go_on()
            if target.digests.get(entry.name) == entry.digest:
                continue
            target.digests.pop(entry.name, None)
            held = self._held.get(entry.digest)
            if held is None or not target.copy_from(*held, entry):
                self._copy(entry, target)
        self._fetched.clear()

    def verify(self, target: Instance) -> None:
        """Digests every tensor where it lies; one that a forward pass had altered is read anew.

        Raises DataLoss (INSTALL_MISMATCH).
        """
        for entry in self._manifest.tensors:
            self._go_on()
            if not target.intact(entry):
                target.digests.pop(entry.name, None)
                self._copy(entry, target)
                if not target.intact(entry):
                    raise DataLoss(
                        "INSTALL_MISMATCH",
                        f"tensor {entry.name!r} differs from its digest after it was installed",
                    )
            target.digests[entry.name] = entry.digest
        target.forget_others(self._manifest)

    def _copy(self, entry: TensorEntry, target: Instance) -> None:
        content = self._fetched.get(entry.digest)
        if content is None:
            content = self._read(entry)
        target.put(entry, tensor_of(content, entry.datatype, entry.shape, _CPU))

    def _read(self, entry: TensorEntry) -> bytes:
        self._go_on()
        # The store reads and digests a blob as a whole.
        self._staging.wait(entry.size_bytes)
        content = self._store.read_blob(entry.digest)
        if len(content) != entry.size_bytes:
            raise DataLoss(
                "SIZE_MISMATCH",
                f"the blob of tensor {entry.name!r} holds {len(content)} bytes; the manifest says "
                f"{entry.size_bytes}",
            )
        return content


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
