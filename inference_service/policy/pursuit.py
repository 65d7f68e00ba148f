"""Which version a replica should load next, and when.

Pure: facts come in with `now` (seconds on any monotonic clock), versions to load come out. Reading
channels, loading and flipping are the watcher's and the loader's.

The newest wanted version is pursued and those in between are skipped. A version that was refused
for what it is stays refused until the channel moves; one whose load failed on the way is tried
again with growing pauses. A replica that serves nothing yet falls back along the channel's history
rather than answer nobody: to older versions that were not rolled back.

An operator may pin a version: then it is the wanted one whatever the channel does, nothing stands
in for it, and no other version flips until the pin is lifted.

A candidate is loaded aside once nothing wanted is left to load: it stands by, answers who asks
for it, and flips only if the channel comes to want it. What goes wrong with it is its own affair.
Its load is not broken off for what is wanted meanwhile, else a fast publisher would starve it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True, slots=True)
class PursuitSnapshot:
    """`wanted` and `serving` are versions, 0 for none; `behind_since` is None when they agree."""

    wanted: int
    serving: int
    behind_since: float | None


@dataclass(slots=True)
class _Tries:
    """What failed since the wish it belongs to, and until when it rests."""

    refused: set[int] = field(default_factory=set)
    failures: int = 0
    retry_at: float | None = None

    def on_failed(self, version: int, *, permanent: bool, now: float) -> None:
        if permanent:
            self.refused.add(version)
            return
        self.retry_at = now + min(FIRST_PAUSE_S * 2**self.failures, LONGEST_PAUSE_S)
        self.failures += 1

    def resting(self, now: float) -> bool:
        return self.retry_at is not None and now < self.retry_at


class Pursuit:
    """One model's way from the version that serves to the version wanted."""

    def __init__(self) -> None:
        self._wanted = 0
        # 0 while the channel is followed.
        self._pinned = 0
        self._serving = 0
        self._standby = 0
        self._candidate = 0
        self._fallbacks: tuple[int, ...] = ()
        self._tries = _Tries()
        self._candidate_tries = _Tries()
        self._loading = 0
        self._aside = False
        self._behind_since: float | None = None

    @property
    def aside(self) -> bool:
        """Whether what loads was taken as the candidate."""
        return self._aside

    def on_channel(self, history: Sequence[int], *, now: float) -> None:
        """The channel moved; `history` holds its versions, oldest first, the wanted one last."""
        if not self._pinned:
            self._want(history[-1], _standing(history)[:-1], now)

    def on_pinned(self, version: int, *, now: float) -> None:
        """`version` and no other is wanted from now on."""
        self._pinned = version
        self._want(version, (), now)

    def on_followed(self, history: Sequence[int], *, now: float) -> None:
        """A channel, perhaps another one, is followed from now on; `history` as for `on_channel`.

        Empty where nothing is known of the channel yet: what serves stays until it is.
        """
        self._pinned = 0
        self._want(history[-1] if history else self._serving, _standing(history)[:-1], now)

    def on_candidate(self, version: int) -> None:
        """`version` is to be loaded beside what serves; 0: none is. Asked for again: tried again.

        A candidate that stands by goes on standing by where it ceases to be one.
        """
        self._candidate = version
        self._candidate_tries = _Tries()

    def on_standby(self, version: int) -> None:
        """`version` stands by, loaded and verified; 0: none does."""
        self._standby = version

    def on_serving(self, version: int, *, now: float) -> None:
        """`version` answers requests from now on."""
        self._serving = version
        self._tries.failures = 0
        self._end()
        self._note_distance(now)

    def on_failed(self, version: int, *, permanent: bool, now: float) -> None:
        """A load ended without a flip; `permanent` where repeating it cannot help."""
        # A candidate that the channel wants by now failed as a candidate: there may be reasons
        # that hold for those only, so it is tried once more.
        tries = self._candidate_tries if self._aside else self._tries
        tries.on_failed(version, permanent=permanent, now=now)
        self._end()

    def on_set_aside(self) -> None:
        """A loaded version was not allowed to flip."""
        if self._aside:
            self._candidate_tries.failures = 0
        self._end()

    def take_version(self, *, now: float) -> int | None:
        """The version to load now; None while there is none, one is loading or a pause lasts.

        Each version taken ends in `on_serving`, `on_failed` or `on_set_aside`. `aside` says whether
        it is the candidate.
        """
        version, tries = self._next()
        if not version or self._loading or tries.resting(now):
            return None
        self._loading, self._aside = version, tries is self._candidate_tries
        tries.retry_at = None
        return version

    def next_wakeup(self) -> float | None:
        """When a pause ends; None where only a fact can change the decision."""
        version, tries = self._next()
        return None if self._loading or not version else tries.retry_at

    def may_flip(self, version: int) -> bool:
        """Whether a loaded version may serve, though the channel may have moved meanwhile.

        Later publications do not hold it up, else a fast publisher would starve the replica. A
        channel that went back below it was rolled back: it must not serve, not for a moment. Nor
        must a candidate, whatever its number, unless it is what the channel wants by now.
        """
        if self._pinned:
            return version == self._pinned
        return version == self._wanted if self._aside else version <= self._wanted

    def snapshot(self) -> PursuitSnapshot:
        """Where it stands."""
        return PursuitSnapshot(self._wanted, self._serving, self._behind_since)

    def _next(self) -> tuple[int, _Tries]:
        """The version whose turn it is, 0 for none, and its tries."""
        wanted = self._next_wanted()
        if wanted:
            return wanted, self._tries
        return self._next_aside(), self._candidate_tries

    def _next_wanted(self) -> int:
        if self._wanted in (0, self._serving):
            return 0
        refused = self._tries.refused
        if self._wanted not in refused:
            return self._wanted
        if self._serving:
            return 0
        return next((v for v in reversed(self._fallbacks) if v not in refused), 0)

    def _next_aside(self) -> int:
        # Beside nothing it cannot stand, and a pin leaves no room for another opinion.
        if not self._serving or self._pinned:
            return 0
        there = (self._serving, self._standby, self._wanted)
        if self._candidate in there or self._candidate in self._candidate_tries.refused:
            return 0
        return self._candidate

    def _end(self) -> None:
        self._loading, self._aside = 0, False

    def _want(self, version: int, fallbacks: tuple[int, ...], now: float) -> None:
        self._wanted = version
        self._fallbacks = fallbacks
        self._tries = _Tries()
        self._note_distance(now)

    def _note_distance(self, now: float) -> None:
        if self._wanted == self._serving:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now


def _standing(history: Sequence[int]) -> tuple[int, ...]:
    # A move to a lower version is a rollback: it takes away every version above it.
    standing: list[int] = []
    for version in history:
        while standing and standing[-1] >= version:
            standing.pop()
        standing.append(version)
    return tuple(standing)
