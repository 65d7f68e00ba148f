"""New weights over the ones that serve, for a model with one slot, and the way back.

The slot is closed from its last batch on until the new version has passed or the old one is whole
again: no batch sees a half-filled slot. Half of `max_stall_s` is for the new version, so that what
is left does for putting the old one back. What is overwritten is kept in host memory, as much as
fits; the rest is read from the store.
"""

from __future__ import annotations

import time

from chassis.errors import FailedPrecondition, HeadraceError, Unavailable
from chassis.telemetry import logger
from inference_service.fill import Fill
from inference_service.instance import Instance, Kept
from inference_service.served import ServedModel
from inference_service.slot import Slot
from model_store.blobs import Blobs
from model_store.records import Manifest

log = logger(__name__)

# Between two tries to read what was not kept from a store that does not answer.
PAUSE_S = 0.2


class Refill:
    """One installation: `close`, then `undo` or a flip."""

    slot: Slot
    instance: Instance

    def __init__(
        self, blobs: Blobs, served: ServedModel, keep_bytes: int, max_stall_s: float
    ) -> None:
        self._blobs = blobs
        self._served = served
        self._keep_bytes = keep_bytes
        self._max_stall_s = max_stall_s
        self._closed_at = 0.0
        self._before: Manifest
        self._kept: Kept

    def close(self, manifest: Manifest) -> None:
        """Keeps what `manifest`'s version will overwrite, then takes the slot out of use.

        Raises Unavailable (SLOT_BUSY) where a batch or a generation does not end in time.
        """
        serving = self._served.slots.serving
        assert serving is not None and serving.instance is not None and serving.manifest is not None
        self.instance, self._before = serving.instance, serving.manifest
        lasting = {(entry.name, entry.digest) for entry in manifest.tensors}
        overwritten = [e for e in self._before.tensors if (e.name, e.digest) not in lasting]
        self._kept = self.instance.kept(overwritten, self._keep_bytes)
        self._closed_at = time.monotonic()
        slot = self._served.slots.close(self._max_stall_s / 2)
        if slot is None:
            raise Unavailable(
                "SLOT_BUSY",
                f"what runs on version {self._before.version} did not end within "
                f"{self._max_stall_s / 2:g} s, half of replica.max_stall_ms",
            )
        self.slot = slot
        self.instance.handover.before_fill()

    def check_time(self) -> None:
        """Raises FailedPrecondition (STALL_TOO_LONG)."""
        if time.monotonic() - self._closed_at > self._max_stall_s / 2:
            raise FailedPrecondition(
                "STALL_TOO_LONG",
                f"installing took longer than {self._max_stall_s / 2:g} s, half of "
                "replica.max_stall_ms; raise it or use two slots",
            )

    def undo(self) -> None:
        """Puts the old weights back and opens the slot; while the store is needed and does not
        answer, it stays closed. A replica that stops lets go of the slot instead."""
        self.instance.restore(self._kept)
        while not self._whole():
            if self._served.stopping:
                self._served.slots.clear()
                return
            time.sleep(PAUSE_S)
        self.instance.handover.after_fill()
        self._served.slots.open(self.slot)
        log.info(
            "the old weights serve again",
            model=self._served.name,
            version=self._before.version,
            stall_ms=round((time.monotonic() - self._closed_at) * 1000, 1),
        )

    def _whole(self) -> bool:
        fill = Fill(self._blobs, self._before, (), lambda: None)
        try:
            fill.install(self.instance)
            fill.verify(self.instance)
        except HeadraceError as error:
            log.error(
                "the old weights are not back yet",
                model=self._served.name,
                version=self._before.version,
                reason=error.reason,
                message=error.message,
            )
            return False
        return True
