"""Tells the store which versions this replica holds, so that no collection takes them.

Leased is what the two slots hold and what is being loaded. Decides when to write: at a third of the
leases' time, and at once for a load of an old version only, because every collector spares young
ones. A load does not wait for its lease: one that is granted at any moment says that nothing was
removed before it, and a version that went is noticed by reading it.
"""

from __future__ import annotations

import os
import socket
import threading
from uuid import uuid4

from chassis.clock import wall_time_ms
from chassis.errors import HeadraceError
from chassis.telemetry import logger
from inference_service.served import ServedModel
from model_store.records import Manifest
from model_store.store import Store

log = logger(__name__)

# Well below the least grace of a collector (15 minutes), whatever the clocks of two hosts say.
YOUNG_MS = 5 * 60 * 1000


class Leases:
    """Those of one served model, kept by a thread of its own; `ttl_s` 0 takes none.

    A store that grants none (read-only, full, away) is told of in the log and read all the same.
    """

    def __init__(self, store: Store, served: ServedModel, *, ttl_s: float) -> None:
        self._store = store
        self._served = served
        self._ttl_s = ttl_s
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._loading = 0
        self._granted: set[int] = set()
        self._refusal = ""
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{served.name}", daemon=True)

    def start(self) -> None:
        """Starts to keep leases."""
        if self._ttl_s:
            self._thread.start()

    def on_load(self, manifest: Manifest) -> None:
        """The loader begins to read the blobs of this version."""
        self._loading = manifest.version
        if wall_time_ms() - manifest.create_time_ms > YOUNG_MS:
            self._wake.set()

    def on_loaded(self) -> None:
        """It has ended, well or not; what it holds from now on the slots tell."""
        self._loading = 0

    def stop(self) -> None:
        """Asks the thread to release every lease and to end."""
        self._stopping = True
        self._wake.set()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread's end, after `stop`."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _keep(self) -> None:
        while not self._stopping:
            self._wake.wait(self._ttl_s / 3)
            self._wake.clear()
            self._settle(set() if self._stopping else self._held())
        self._settle(set())

    def _held(self) -> set[int]:
        # The load first: one that ends in between is then in a slot.
        loading = self._loading
        return {loading, *(slot.version for slot in self._served.slots.snapshot())} - {0}

    def _settle(self, held: set[int]) -> None:
        """Leases what is held, again or anew, and releases the rest."""
        refusal = ""
        for version in sorted(held):
            try:
                self._store.lease(self._served.name, version, self._holder, self._ttl_s)
                self._granted.add(version)
            except HeadraceError as error:
                refusal = error.message
        for version in sorted(self._granted - held):
            try:
                self._store.release(self._served.name, version, self._holder)
            except HeadraceError as error:
                # It expires by itself.
                refusal = error.message
            self._granted.discard(version)
        self._report(refusal)

    def _report(self, refusal: str) -> None:
        if refusal and refusal != self._refusal:
            log.warning("version is not leased", model=self._served.name, message=refusal)
        self._refusal = refusal
