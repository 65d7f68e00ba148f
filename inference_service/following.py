"""A served model with the threads that keep it: one watches its channel, one loads, one leases."""

from __future__ import annotations

import time
from collections.abc import Callable

from inference_service.architecture import Architecture, Choice
from inference_service.leases import Leases
from inference_service.loader import Loader
from inference_service.precision import Precision
from inference_service.sequences import SequenceBounds
from inference_service.served import ServedModel
from inference_service.settings import Followed, ReplicaSettings
from inference_service.trust import Trust
from inference_service.watcher import Watcher
from model_store.blobs import Blobs
from model_store.store import Store


class Following:
    """`start` begins, `stop` asks all threads to end, `join` waits for them."""

    def __init__(
        self,
        followed: Followed,
        store: Store,
        blobs: Blobs,
        architecture: Architecture,
        settings: ReplicaSettings,
        trust: Trust,
        *,
        on_first_flip: Callable[[], None],
    ) -> None:
        bounds = SequenceBounds(
            settings.max_sequences, settings.sequence_idle_s, settings.sequence_hold_s
        )
        own = settings.of_model(followed.model)
        one_slot = own.slots == 1
        self.served = ServedModel(followed, on_first_flip, bounds, one_slot=one_slot)
        self._watcher = Watcher(
            store,
            self.served,
            poll_s=settings.poll_s,
            candidate_channel=settings.candidate_channel,
        )
        self._leases = Leases(store, self.served, ttl_s=settings.lease_s)
        self._loader = Loader(
            store,
            blobs,
            self.served,
            # With one slot callers wait for the installation: it had better be over soon.
            architecture.of_model(paced=not one_slot),
            self._leases,
            staging_bytes=settings.staging_bytes,
            trust=trust,
            choice=Choice(str(own.engine), Precision(str(own.precision)), bool(own.cuda_graphs)),
            precisions=settings.precisions(followed.model),
            trial_budget_s=settings.auto_budget_s,
            max_stall_s=settings.max_stall_ms / 1000,
        )

    def start(self) -> None:
        """Starts to watch and to load."""
        self._leases.start()
        self._watcher.start()
        self._loader.start()

    def stop(self) -> None:
        """The loader ends before its next step, the watcher after its look at the store."""
        self._watcher.stop()
        self.served.stop()
        self._leases.stop()

    def join_leases(self, timeout_s: float) -> None:
        """Blocks until the leases are released, for at most `timeout_s`; the store must be open."""
        self._leases.join(timeout_s)

    def join(self, timeout_s: float) -> None:
        """Blocks until all have ended, for at most `timeout_s`."""
        until = time.monotonic() + timeout_s
        self._loader.join(timeout_s)
        self._leases.join(max(0.0, until - time.monotonic()))
        self._watcher.join(max(0.0, until - time.monotonic()))
