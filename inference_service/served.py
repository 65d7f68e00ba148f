"""One served model: its slots, what is wanted of it, and what became of every load.

The meeting point of four parties: the watcher writes what the channel wants, the loader takes the
next version and reports how it went, the executor pins slots, servicers read. It decides nothing
about order (`policy.pursuit`) and loads nothing. Thread-safe.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from chassis.clock import wall_time_ms
from chassis.provenance import Provenance
from chassis.tensors import Signature
from inference_service.candidate import Candidate, candidate_of
from inference_service.policy.cadence import Cadence, Irregularity
from inference_service.policy.pursuit import Pursuit
from inference_service.sequences import SequenceBounds, Sequences
from inference_service.served_snapshot import EngineReport, LoadFailure, ServedSnapshot
from inference_service.settings import Followed
from inference_service.slot import Slot, Slots, SlotState
from inference_service.trials import Trial
from model_store.records import Channel, Manifest

MOST_FAILURES = 10


@dataclass(frozen=True, slots=True)
class Directive:
    """What is to be served of a model: `version`, or where it is 0 what the channel names."""

    channel: str
    version: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a directive has come: the versions wanted and serving, 0 for none, and the failure
    of the wanted one since it was given."""

    wanted: int
    serving: int
    failure: LoadFailure | None


class ServedModel:
    """A model of this replica and the directive that says which version it serves.

    `channel` is the one that what serves came from; it differs from the directive's until a version
    of that one serves.
    """

    def __init__(
        self,
        followed: Followed,
        on_first_flip: Callable[[], None],
        sequences: SequenceBounds | None = None,
        *,
        one_slot: bool = False,
    ) -> None:
        self.name = followed.model
        self.channel = followed.channel
        self.slots = Slots(one=one_slot)
        self.sequences = Sequences(sequences)
        # Set at the first flip and the same ever after: a version that changes it is refused.
        self.signature: Signature | None = None
        # Work that waits or runs, and the event that there is none; the event loop's.
        self._inflight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._on_first_flip = on_first_flip
        self._directive = Directive(followed.channel)
        # The channel as last acted upon.
        self._record: Channel | None = None
        self._candidate_record: Channel | None = None
        # What is to stand by for requests of its own, beside what serves.
        self.candidate: Candidate | None = None
        self._failure: LoadFailure | None = None
        self._listeners: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._pursuit = Pursuit()
        self._cadence = Cadence()
        self._failures: deque[LoadFailure] = deque(maxlen=MOST_FAILURES)
        self._stopping = False
        self._swaps = 0
        self._last_load_ms = 0.0
        # What the loader measured to choose an engine.
        self.trials: tuple[Trial, ...] = ()
        self._load_step = ""
        self._store_error = ""
        # A version that was made before is no measure of how soon new ones answer.
        self._since_ms = wall_time_ms()
        self._awaited_version = 0
        self._first_reply_ms = 0

    @property
    def ready(self) -> bool:
        """Whether a version answers; once true, always true."""
        return self.slots.serving is not None

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    @property
    def age_ms(self) -> int:
        """Milliseconds since the train step whose weights serve; 0 before the first load."""
        slot = self.slots.serving
        if slot is None or slot.manifest is None:
            return 0
        return max(0, wall_time_ms() - slot.manifest.fresh_time_ms)

    @property
    def directive(self) -> Directive:
        """What is to be served."""
        return self._directive

    @property
    def record(self) -> Channel | None:
        """The directive's channel as last acted upon; None before that."""
        return self._record

    @property
    def candidate_record(self) -> Channel | None:
        """The candidates' channel as last acted upon; None before that."""
        return self._candidate_record

    @property
    def aside(self) -> bool:
        """Whether what loads is a candidate. For the loader's thread."""
        return self._pursuit.aside

    def enter(self) -> None:
        """Work of this model begins to wait; followed by one `leave`. On the event loop."""
        self._inflight += 1
        self._idle.clear()

    def leave(self) -> None:
        """It has ended."""
        self._inflight -= 1
        if not self._inflight:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Returns once none of its work waits or runs."""
        await self._idle.wait()

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """`listener` is called, in any thread, after each load that ended and each move of the
        channel; returns the way out."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def direct(self, directive: Directive, record: Channel | None) -> None:
        """Serves what `directive` says from now on; `record` is its channel as it stands, if known.

        What serves goes on until then.
        """
        with self._changed:
            self._directive = directive
            self._record = record
            self._failure = None
            now = time.monotonic()
            self._cadence.on_channel(record, now=now)
            if directive.version:
                self._pursuit.on_pinned(directive.version, now=now)
            else:
                self._pursuit.on_followed(_history(record), now=now)
            self._note_candidate()
            self._note_serving()
            self._changed.notify_all()

    def progress(self) -> Progress:
        """How far the directive has come."""
        with self._changed:
            pursuit = self._pursuit.snapshot()
            return Progress(pursuit.wanted, pursuit.serving, self._failure)

    def on_channel(self, channel: Channel) -> None:
        """The watcher saw the channel move. One that is not followed any more is not heeded."""
        with self._changed:
            if channel.name != self._directive.channel or not channel.follows(self._record):
                return
            self._record = channel
            now = time.monotonic()
            self._cadence.on_channel(channel, now=now)
            self._pursuit.on_channel(_history(channel), now=now)
            self._note_serving()
            self._changed.notify_all()
        self._tell()

    def on_candidate_channel(self, channel: Channel) -> None:
        """The watcher saw the candidates' channel move."""
        with self._changed:
            self._candidate_record = channel
            self._note_candidate()
            self._changed.notify_all()

    @property
    def irregularity(self) -> Irregularity | None:
        """What is unusual about the publications to its channel."""
        with self._changed:
            return self._cadence.irregularity(now=time.monotonic())

    def on_store_error(self, message: str) -> None:
        """The watcher could not read the store; "" once it could again."""
        self._store_error = message

    def wait_for_version(self) -> int | None:
        """Blocks until there is a version to load; None once stopped."""
        with self._changed:
            # Only the thread that waits here changes what stands by.
            self._pursuit.on_standby(self.slots.standing_by)
            while not self._stopping:
                now = time.monotonic()
                version = self._pursuit.take_version(now=now)
                if version is not None:
                    return version
                wakeup = self._pursuit.next_wakeup()
                self._changed.wait(None if wakeup is None else max(0.0, wakeup - now))
        return None

    def on_step(self, step: str) -> None:
        """The loader reached a step, such as "fetch"; "" when it is done."""
        self._load_step = step

    def on_failed(self, version: int, reason: str, message: str, *, permanent: bool) -> None:
        """A load failed; what serves goes on serving."""
        failure = LoadFailure(version, reason, message, wall_time_ms(), permanent)
        with self._changed:
            # Retries of one fault are one entry, else they would push out every other.
            if self._failures and self._failures[0].version == version:
                self._failures.popleft()
            self._failures.appendleft(failure)
            if version == self._pursuit.snapshot().wanted and not self._pursuit.aside:
                self._failure = failure
            self._pursuit.on_failed(version, permanent=permanent, now=time.monotonic())
        self._tell()

    def flip(self, slot: Slot, manifest: Manifest, *, load_ms: float) -> bool:
        """Lets a slot with `manifest`'s weights serve, unless the channel went back below it or it
        is a candidate: then it stands by.

        Returns whether it serves.
        """
        with self._changed:
            first = self.signature is None
            if slot.state is SlotState.LOADING:
                self._await_reply(manifest)
            if not self._pursuit.may_flip(manifest.version):
                if not self.slots.one:
                    self.slots.set_aside(slot)
                self._pursuit.on_set_aside()
                return False
            self._note_channel(manifest.version)
            self.signature = manifest.signature
            self.slots.flip(slot, manifest, self._revision(manifest.version))
            self._swaps += 1
            self._last_load_ms = load_ms
            self._pursuit.on_serving(manifest.version, now=time.monotonic())
        if first:
            self._on_first_flip()
        self._tell()
        return True

    def on_reply(self, provenance: Provenance) -> bool:
        """An answer was computed; whether it is the first of a version that is new."""
        # Without the lock, on every answer: a flip beside it makes this the answer before.
        if provenance.version != self._awaited_version:
            return False
        self._awaited_version = 0
        self._first_reply_ms = provenance.age_ms
        return True

    def _await_reply(self, manifest: Manifest) -> None:
        if manifest.create_time_ms >= self._since_ms:
            self._awaited_version = manifest.version

    def stop(self) -> None:
        """Wakes the loader and makes it end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self.sequences.stop()

    def _note_serving(self) -> None:
        """What serves may be what the directive, or a new move of its channel, says."""
        serving = self._pursuit.snapshot().serving
        # What a pin will replace serves at its own revision until then.
        kept = self._directive.version not in (0, serving)
        if serving and self._note_channel(serving) and not kept:
            self.slots.note_revision(self._revision(serving))

    def _note_channel(self, version: int) -> bool:
        # A version loaded for the channel that was followed before does not belong to this one.
        belongs = version in (self._directive.version, *_history(self._record))
        if belongs:
            self.channel = self._directive.channel
        return belongs

    def _revision(self, version: int) -> int:
        """Of the channel, when it last moved to `version`; 0 for a pin and where that is unknown.

        Not the channel's own in their stead: whoever asks for that revision would get less.
        """
        record = self._record
        if record is None or self._directive.version:
            return 0
        if not record.history and version == record.version:
            return record.revision
        moves = (move.revision for move in record.history if move.version == version)
        return max(moves, default=0)

    def _note_candidate(self) -> None:
        directive = self._directive
        candidate = candidate_of(self._candidate_record, against=directive.channel)
        # What is pinned does not answer for the channel, so nothing is tried beside it.
        self.candidate = None if directive.version else candidate
        self._pursuit.on_candidate(self.candidate.version if self.candidate else 0)

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener()

    def snapshot(self) -> ServedSnapshot:
        """What there is to know about it."""
        with self._changed:
            pursuit = self._pursuit.snapshot()
            failures = tuple(self._failures)
        slot, slots = self.slots.serving, self.slots.snapshot()
        on_trial = self.candidate
        candidate = 0 if on_trial is None else on_trial.version
        if candidate == pursuit.serving:
            candidate = 0
        manifest: Manifest | None = slot.manifest if slot is not None else None
        behind_s = 0.0
        if pursuit.behind_since is not None and slot is not None:
            behind_s = time.monotonic() - pursuit.behind_since
        return ServedSnapshot(
            model=self.name,
            channel=self.channel,
            serving_version=pursuit.serving,
            wanted_version=pursuit.wanted,
            step=manifest.step if manifest is not None else 0,
            age_ms=self.age_ms,
            behind_ms=round(behind_s * 1000),
            slots=slots,
            failures=failures,
            swaps=self._swaps,
            last_load_ms=self._last_load_ms,
            load_step=self._load_step,
            store_error=self._store_error,
            first_reply_ms=self._first_reply_ms,
            engine=self._engine(slot),
            revision=slot.revision if slot is not None else 0,
            candidate_version=candidate,
            candidate_ready=any(
                each.state is SlotState.STANDBY and each.version == candidate for each in slots
            ),
            irregularity=self.irregularity,
        )

    def _engine(self, slot: Slot | None) -> EngineReport:
        instance = slot.instance if slot is not None else None
        if instance is None:
            return EngineReport(trials=self.trials)
        return EngineReport(
            instance.engine.name,
            instance.precision.name,
            instance.why_not,
            self.trials,
            instance.graphs,
        )


def _history(record: Channel | None) -> list[int]:
    """Versions of the channel, oldest first, the present one last."""
    if record is None:
        return []
    return [move.version for move in record.history] or [record.version]
