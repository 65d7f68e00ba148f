"""One served model: its slots, what is wanted of it, and what became of every load.

The meeting point of four parties: the watcher writes what the channel wants, the loader takes the
next version and reports how it went, the executor pins slots, servicers read. It decides nothing
about order (`policy.pursuit`) and loads nothing. Thread-safe.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from chassis.clock import wall_time_ms
from chassis.tensors import Signature
from inference_service.policy.pursuit import Pursuit
from inference_service.settings import Followed
from inference_service.slot import Slot, Slots, SlotSnapshot
from model_store.records import Channel, Manifest

MOST_FAILURES = 10


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """A version that could not be loaded, and why."""

    version: int
    reason: str
    message: str
    fail_time_ms: int


@dataclass(frozen=True, slots=True)
class ServedSnapshot:
    """A model at one moment; durations in milliseconds, 0 where they do not apply."""

    model: str
    channel: str
    serving_version: int
    wanted_version: int
    step: int
    age_ms: int
    behind_ms: int
    slots: tuple[SlotSnapshot, ...]
    failures: tuple[LoadFailure, ...]
    swaps: int
    last_load_ms: float
    load_step: str
    store_error: str


class ServedModel:
    """A model that this replica follows on one channel."""

    def __init__(self, followed: Followed, on_first_flip: Callable[[], None]) -> None:
        self.name = followed.model
        self.channel = followed.channel
        self.slots = Slots()
        # Set at the first flip and the same ever after: a version that changes it is refused.
        self.signature: Signature | None = None
        self._on_first_flip = on_first_flip
        self._changed = threading.Condition()
        self._pursuit = Pursuit()
        self._failures: deque[LoadFailure] = deque(maxlen=MOST_FAILURES)
        self._stopping = False
        self._swaps = 0
        self._last_load_ms = 0.0
        self._load_step = ""
        self._store_error = ""

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
        """Milliseconds since the serving version was made; 0 before the first load."""
        slot = self.slots.serving
        if slot is None or slot.manifest is None:
            return 0
        return max(0, wall_time_ms() - slot.manifest.create_time_ms)

    def on_channel(self, channel: Channel) -> None:
        """The watcher saw the channel move."""
        history = [move.version for move in channel.history] or [channel.version]
        with self._changed:
            self._pursuit.on_channel(history, now=time.monotonic())
            self._changed.notify_all()

    def on_store_error(self, message: str) -> None:
        """The watcher could not read the store; "" once it could again."""
        self._store_error = message

    def wait_for_version(self) -> int | None:
        """Blocks until there is a version to load; None once stopped."""
        with self._changed:
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
        failure = LoadFailure(version, reason, message, wall_time_ms())
        with self._changed:
            # Retries of one fault are one entry, else they would push out every other.
            if self._failures and self._failures[0].version == version:
                self._failures.popleft()
            self._failures.appendleft(failure)
            self._pursuit.on_failed(version, permanent=permanent, now=time.monotonic())

    def flip(self, slot: Slot, signature: Signature, *, load_ms: float) -> bool:
        """Lets a loaded slot serve, unless the channel went back below it; whether it serves."""
        with self._changed:
            first = self.signature is None
            if not self._pursuit.may_flip(slot.version):
                self.slots.set_aside(slot)
                self._pursuit.on_set_aside()
                return False
            self.signature = signature
            self.slots.flip(slot)
            self._swaps += 1
            self._last_load_ms = load_ms
            self._pursuit.on_serving(slot.version, now=time.monotonic())
        if first:
            self._on_first_flip()
        return True

    def stop(self) -> None:
        """Wakes the loader and makes it end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def snapshot(self) -> ServedSnapshot:
        """What there is to know about it."""
        with self._changed:
            pursuit = self._pursuit.snapshot()
            failures = tuple(self._failures)
        slot = self.slots.serving
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
            slots=self.slots.snapshot(),
            failures=failures,
            swaps=self._swaps,
            last_load_ms=self._last_load_ms,
            load_step=self._load_step,
            store_error=self._store_error,
        )
