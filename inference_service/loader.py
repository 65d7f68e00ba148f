"""Brings a wanted version into the idle slot and flips to it; the order of a load stands here.

manifest -> trust -> signature -> table of tensors -> fetch -> hold -> idle slot -> fill -> verify
-> finite -> warm-up -> probe -> flip, or a candidate stands by. All that can be refused without
touching a slot is refused first. A failed load changes nothing that serves. Blocking: it owns a
thread, the event loop never waits.
Which version is next and when a failed one is tried again is `policy.pursuit`'s decision.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Collection, Sequence

import grpc

from chassis.errors import (
    DataLoss,
    FailedPrecondition,
    HeadraceError,
    Internal,
    NotFound,
    ResourceExhausted,
)
from chassis.failpoints import failpoint
from chassis.telemetry import logger
from headrace.program import preload
from inference_service import metrics
from inference_service.architecture import AS_IT_COMES, Architecture, Choice, check_table
from inference_service.engines.engine import AUTO
from inference_service.faults import is_out_of_memory
from inference_service.fill import Fill, check_finite
from inference_service.instance import Instance
from inference_service.leases import Leases
from inference_service.precision import PUBLISHED
from inference_service.refill import Refill
from inference_service.rehearsal import Rehearsal
from inference_service.served import ServedModel
from inference_service.slot import Slot
from inference_service.trials import Trials
from inference_service.trust import Trust
from model_store.blobs import Blobs
from model_store.records import Manifest
from model_store.store import Store

log = logger(__name__)

# What a version is cannot change, what happened on the way can: these are worth another try.
TRANSIENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INTERNAL,
}
# Access to a store is an operator's to repair.
TRANSIENT_REASONS = {"STORE_ACCESS"}


class Stopped(Exception):
    """The replica is stopping; the load is of no use any more."""


class Loader:
    """One model's loads, one after another, in a thread of its own."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        served: ServedModel,
        architecture: Architecture,
        leases: Leases,
        *,
        staging_bytes: int,
        trust: Trust | None = None,
        choice: Choice = AS_IT_COMES,
        precisions: Sequence[str] = (PUBLISHED.name,),
        trial_budget_s: float = 120.0,
        max_stall_s: float = 1.0,
    ) -> None:
        self._trust = trust or Trust()
        self._store = store
        self._blobs = blobs
        self._leases = leases
        self._served = served
        self._architecture = architecture
        self._staging_bytes = staging_bytes
        self._choice = choice
        self._precisions = precisions
        self._trial_budget_s = trial_budget_s
        self._max_stall_s = max_stall_s
        # The installation that requests wait for, if any.
        self._refill: Refill | None = None
        self._thread = threading.Thread(
            target=self._pursue, name=f"load-{served.name}", daemon=True
        )

    def start(self) -> None:
        """Starts to load what the served model wants."""
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread's end, after `ServedModel.stop`."""
        self._thread.join(timeout_s)

    def _pursue(self) -> None:
        _preload()
        # What this thread asks of the device goes beside the batches, not between them.
        with self._architecture.lane.entered():
            self._load_wanted()

    def _load_wanted(self) -> None:
        gives_way = False
        while (version := self._served.wait_for_version()) is not None:
            if self._served.ready and not gives_way:
                # Not before: until a version serves, everybody waits for this thread.
                self._architecture.staging.give_way()
                gives_way = True
            started = time.perf_counter()
            try:
                self._load(version, started)
            except Stopped:
                return
            except Exception as error:
                self._refuse(version, self._cause(version, error))
            finally:
                self._leases.on_loaded()
                self._served.on_step("")

    def _load(self, version: int, started: float) -> None:
        if self._served.aside and self._served.slots.one:
            raise FailedPrecondition(
                "ONE_SLOT",
                f"candidate {version} would have to be loaded beside what serves; replica.slots "
                "is 1",
            )
        standby = self._served.slots.standby(version)
        if standby is not None and standby.manifest is not None:
            # Rollback: it was verified when it was loaded and nothing has written to it since.
            self._flip(standby, standby.manifest, started)
            return
        manifest = self._read_manifest(version)
        self._leases.on_load(manifest)
        self._bring(manifest, started)

    def _bring(self, manifest: Manifest, started: float) -> None:
        if self._choice.engine == AUTO:
            self._choose(manifest)
        self._step("table")
        fresh = self._fresh_instance(manifest)
        if fresh is not None:
            check_table(manifest, fresh)
        self._step("fetch")
        holders, staging = self._holders(fresh), self._architecture.staging
        fill = Fill(self._blobs, manifest, holders, self._go_on, staging)
        failpoint("load.before_fetch")
        # Only around what moves bytes: batches beside a warm-up or a wait say nothing of those.
        with staging.during():
            fill.fetch(self._staging_bytes, self._taking_in_place(fresh))
        self._check_stored(fill.left)
        rehearsal = self._rehearsal(manifest)
        failpoint("load.after_fetch")
        self._step("hold")
        # Else a sequence on the version that stood by would lose its weights in its midst.
        self._served.sequences.wait_released(self._served.slots.idle().version)
        self._go_on()
        if self._served.slots.one and self._served.slots.serving is not None:
            assert fresh is None
            self._replace(manifest, fill, rehearsal, started)
            return
        slot = self._served.slots.begin_load(manifest)
        try:
            instance = self._fill(slot, fresh, fill)
            self._rehearse(instance, rehearsal)
        except BaseException:
            self._served.slots.abandon_load(slot)
            raise
        self._flip(slot, manifest, started)

    def _replace(
        self, manifest: Manifest, fill: Fill, rehearsal: Rehearsal, started: float
    ) -> None:
        """Installs into the one slot while its model's requests wait, or puts back what was there.

        Raises Unavailable (SLOT_BUSY), FailedPrecondition (STALL_TOO_LONG) and what a load does.
        """
        refill = Refill(self._blobs, self._served, self._staging_bytes, self._max_stall_s)
        self._step("close")
        refill.close(manifest)
        self._refill = refill
        try:
            self._step("fill")
            self._install(refill.instance, fill)
            self._step("probe")
            rehearsal.prove(refill.instance)
            refill.instance.handover.after_fill()
            failpoint("load.before_flip")
            self._go_on()
        except BaseException:
            self._undo(refill)
            raise
        finally:
            self._refill = None
        if not self._flip(refill.slot, manifest, started):
            self._undo(refill)

    def _undo(self, refill: Refill) -> None:
        with self._architecture.staging.during():
            refill.undo()

    def _read_manifest(self, version: int) -> Manifest:
        self._step("manifest")
        manifest = self._store.manifest(self._served.name, version)
        if (manifest.model, manifest.version) != (self._served.name, version):
            raise DataLoss(
                "WRONG_MANIFEST",
                f"the store gave version {manifest.version} of model {manifest.model!r} for "
                f"version {version} of {self._served.name!r}",
            )
        self._trust.check(manifest)
        serving = self._served.signature
        if serving is not None and manifest.signature != serving:
            raise FailedPrecondition(
                "SIGNATURE_CHANGED",
                f"version {version} has another signature than the version that serves; publish "
                "it under a new model name",
            )
        return manifest

    def _choose(self, manifest: Manifest) -> None:
        """Settles engine and precision, for as long as the process lives."""
        self._step("measure")

        def fill(instance: Instance) -> None:
            check_table(manifest, instance)
            filling = Fill(self._blobs, manifest, (), self._go_on)
            with self._architecture.staging.during():
                filling.install(instance)
                filling.verify(instance)
                check_finite(instance)

        trials = Trials(
            self._architecture,
            self._rehearsal(manifest),
            fill,
            self._go_on,
            budget_s=self._trial_budget_s,
            cuda_graphs=self._choice.cuda_graphs,
        )
        choice, table = trials.choose(manifest, self._precisions)
        self._served.trials = tuple(table)
        if any(trial.seconds for trial in table) or not table:
            # Else the version is at fault: the next one is measured.
            self._choice = choice

    def _fresh_instance(self, manifest: Manifest) -> Instance | None:
        """A new build where the idle slot's does not fit; None where it does, table included."""
        idle = self._served.slots.idle().instance
        if idle is not None and idle.fits(manifest):
            check_table(manifest, idle)
            return None
        if idle is not None and self._served.slots.one:
            raise FailedPrecondition(
                "PROGRAM_CHANGED",
                f"version {manifest.version} has another program than the one that serves; with "
                "replica.slots: 1 it takes a restart, as two do not fit",
            )
        return self._architecture.build(manifest, self._choice, go_on=self._go_on)

    def _holders(self, fresh: Instance | None) -> tuple[Instance, ...]:
        # An idle build that is about to be replaced must not be kept alive: three would not fit.
        slots = self._served.slots
        found = (slots.serving, slots.idle() if fresh is None else None)
        return tuple(s.instance for s in found if s is not None and s.instance is not None)

    def _taking_in_place(self, fresh: Instance | None) -> Instance | None:
        """Who is to be filled, unless callers wait for it: then reading is done before."""
        slots = self._served.slots
        if slots.one and slots.serving is not None:
            return None
        return fresh or slots.idle().instance

    def _check_stored(self, digests: Collection[str]) -> None:
        """Raises NotFound (BLOB_NOT_FOUND): what is read late is looked for before."""
        missing = self._store.missing_blobs(sorted(digests)) if digests else set()
        if missing:
            raise NotFound("BLOB_NOT_FOUND", f"blob {min(missing)} is not in the store")

    def _rehearsal(self, manifest: Manifest) -> Rehearsal:
        golden = None if manifest.probe is None else self._blobs.read_blob(manifest.probe.digest)
        return Rehearsal(manifest.signature, manifest.probe, golden)

    def _fill(self, slot: Slot, fresh: Instance | None, fill: Fill) -> Instance:
        self._step("fill")
        if slot.instance is not None:
            # Also where its memory is given back: others get it.
            slot.instance.handover.before_fill()
        if fresh is not None:
            slot.instance = fresh
        instance = slot.instance
        assert instance is not None
        instance.materialize()
        self._install(instance, fill)
        return instance

    def _install(self, instance: Instance, fill: Fill) -> None:
        staging = self._architecture.staging
        with staging.during():
            fill.install(instance)
            failpoint("load.after_fill")
            self._step("verify")
            fill.verify(instance)
            check_finite(instance, staging, self._go_on)

    def _rehearse(self, instance: Instance, rehearsal: Rehearsal) -> None:
        self._step("warm-up")
        rehearsal.warm_up(instance)
        self._step("probe")
        rehearsal.prove(instance)
        # While nothing pins it: batches on it follow what was asked so far.
        instance.handover.after_fill()
        failpoint("load.before_flip")

    def _flip(self, slot: Slot, manifest: Manifest, started: float) -> bool:
        self._step("flip")
        seconds = time.perf_counter() - started
        aside = self._served.aside
        flipped = self._served.flip(slot, manifest, load_ms=seconds * 1000)
        metrics.on_load(self._served.name, "flipped" if flipped else "set_aside", seconds)
        set_aside = "candidate stands by" if aside else "version set aside: the channel went back"
        log.info(
            "version serves" if flipped else set_aside,
            model=self._served.name,
            version=manifest.version,
            step=manifest.step,
            load_ms=round(seconds * 1000, 1),
        )
        failpoint("load.after_flip")
        return flipped

    def _cause(self, version: int, error: Exception) -> Exception:
        """What is behind `error`: of a version that was removed meanwhile a blob is gone first."""
        if not isinstance(error, NotFound):
            return error
        try:
            self._store.manifest(self._served.name, version)
        except HeadraceError as cause:
            return cause
        return error

    def _refuse(self, version: int, error: Exception) -> None:
        refusal = _refusal(error)
        permanent = refusal.code not in TRANSIENT and refusal.reason not in TRANSIENT_REASONS
        aside = self._served.aside
        self._served.on_failed(version, refusal.reason, refusal.message, permanent=permanent)
        metrics.on_load(self._served.name, "failed", 0.0)
        log.warning(
            "candidate does not load" if aside else "version does not load",
            model=self._served.name,
            version=version,
            reason=refusal.reason,
            message=refusal.message,
            retried=not permanent,
            serving=self._served.snapshot().serving_version,
        )

    def _step(self, step: str) -> None:
        self._go_on()
        self._served.on_step(step)

    def _go_on(self) -> None:
        if self._served.stopping:
            raise Stopped
        if self._refill is not None:
            self._refill.check_time()


def _preload() -> None:
    try:
        preload()
    except Exception as error:
        # Another thread imports the same modules just now; the first load finds them complete.
        log.warning("not imported ahead of the first load", error=type(error).__name__)


def _refusal(error: Exception) -> HeadraceError:
    if isinstance(error, HeadraceError):
        return error
    if is_out_of_memory(error):
        return ResourceExhausted("OUT_OF_MEMORY", "two versions do not fit into the memory")
    error_id = uuid.uuid4().hex[:12]
    log.error("load failed unexpectedly", error_id=error_id, exc_info=error)
    return Internal("INTERNAL", f"internal error {error_id}")
