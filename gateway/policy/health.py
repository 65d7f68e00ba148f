"""Whether one endpoint takes batches, and when it is asked again how it is.

    UNKNOWN --ready--> HEALTHY --broken, check failed--> EJECTED --ready--> HEALTHY
                          |  ^                              ^
                     not ready  ready                       |
                          v  |                              |
                       DRAINING --broken, check failed------+

An operator's drain holds the endpoint in DRAINING until it is restored. A broken stream ejects at
once; a check that found no connection too. A check without an answer ejects only if nothing else
was heard from the endpoint meanwhile: one that answers batches is slow to answer, not hung. A
check begun before an ejection says nothing about the time after it.

An ejected endpoint is asked soon, then at growing intervals. How it is asked is the probe's
affair; which endpoint takes a batch is decided in `balance`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

FIRST_PROBE_S = 0.1
# A dead endpoint costs two calls a second; one that came back waits no longer than this.
MAX_PROBE_S = 0.5
PROBE_GROWTH = 1.5


class State(Enum):
    """Whether batches go to an endpoint."""

    # Not yet heard from, or not ready since it was.
    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    EJECTED = "ejected"
    # Finishes what is in flight.
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class HealthSnapshot:
    """The state, why it was last ejected, and how often."""

    state: State
    error: str
    ejections: int
    next_check_at: float | None


class EndpointHealth:
    """The state machine of one endpoint; `now` is a point on the shell's clock."""

    def __init__(self, *, interval_s: float, now: float) -> None:
        self._interval_s = interval_s
        self._observed = State.UNKNOWN
        self._held = False
        self._error = ""
        self._ejections = 0
        self._ejected_at = float("-inf")
        self._heard_at = float("-inf")
        self._probe_s = FIRST_PROBE_S
        # None while a check is out.
        self._check_at: float | None = now

    @property
    def state(self) -> State:
        """Whether batches go to it now."""
        return State.DRAINING if self._held and self._observed is State.HEALTHY else self._observed

    @property
    def heard(self) -> bool:
        """Whether it ever answered a check."""
        return self._heard_at > float("-inf")

    def on_heard(self, *, now: float) -> None:
        """It sent something."""
        self._heard_at = now

    def on_check_passed(self, *, ready: bool, started_at: float, now: float) -> None:
        """It answered a check begun at `started_at`, and takes requests if `ready`."""
        self._heard_at = now
        self._check_at = now + self._interval_s
        if started_at <= self._ejected_at:
            return
        if ready:
            self._observed = State.HEALTHY
            self._probe_s = FIRST_PROBE_S
        elif self._observed is State.HEALTHY:
            self._observed = State.DRAINING
        elif self._observed is State.EJECTED:
            self._observed = State.UNKNOWN

    def on_check_failed(self, reason: str, *, silent: bool, started_at: float, now: float) -> None:
        """A check begun at `started_at` failed; `silent` where it ended without any answer."""
        if silent and self._heard_at > started_at:
            self._check_at = now + self._interval_s
        else:
            self._eject(reason, now)
            self._check_at = now + self._next_probe_s()

    def on_broken(self, reason: str, *, now: float) -> None:
        """Its connection broke or an attempt was never answered."""
        self._eject(reason, now)
        self._probe_s = FIRST_PROBE_S
        if self._check_at is not None:
            self._check_at = now + self._next_probe_s()

    def on_drain_requested(self) -> None:
        """An operator takes it out."""
        self._held = True

    def on_restore_requested(self) -> None:
        """An operator puts it back."""
        self._held = False

    def take_check(self, now: float) -> bool:
        """True if a check is due; it counts as out until it passed or failed."""
        if self._check_at is None or now < self._check_at:
            return False
        self._check_at = None
        return True

    def next_wakeup(self) -> float | None:
        """When the next check is due; None while one is out."""
        return self._check_at

    def snapshot(self) -> HealthSnapshot:
        """The state now."""
        return HealthSnapshot(self.state, self._error, self._ejections, self._check_at)

    def _eject(self, reason: str, now: float) -> None:
        if self._observed is not State.EJECTED:
            self._ejections += 1
            self._error = reason
        self._observed = State.EJECTED
        self._ejected_at = now

    def _next_probe_s(self) -> float:
        probe_s = self._probe_s
        self._probe_s = min(MAX_PROBE_S, probe_s * PROBE_GROWTH)
        return probe_s
