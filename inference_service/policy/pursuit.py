"""Which version a replica should load next, and when.

Pure: facts come in with `now` (seconds on any monotonic clock), versions to load come out. Reading
channels, loading and flipping are the watcher's and the loader's.

The newest wanted version is pursued and those in between are skipped. A version that was refused
for what it is stays refused until the channel moves; one whose load failed on the way is tried
again with growing pauses. A replica that serves nothing yet falls back along the channel's history
rather than answer nobody: to older versions that were not rolled back.

An operator may pin a version: then it is the wanted one whatever the channel does, nothing stands
in for it, and no other version flips until the pin is lifted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True, slots=True)
class PursuitSnapshot:
    """`wanted` and `serving` are versions, 0 for none; `behind_since` is None when they agree."""

    wanted: int
    serving: int
    behind_since: float | None


class Pursuit:
    """One model's way from the version that serves to the version wanted."""

    def __init__(self) -> None:
        self._wanted = 0
        # 0 while the channel is followed.
        self._pinned = 0
        self._serving = 0
        self._fallbacks: tuple[int, ...] = ()
        self._refused: set[int] = set()
        self._loading = 0
        self._failures = 0
        self._retry_at: float | None = None
        self._behind_since: float | None = None

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

    def on_serving(self, version: int, *, now: float) -> None:
        """`version` answers requests from now on."""
        self._serving = version
        self._loading = 0
        self._failures = 0
        self._note_distance(now)

    def on_failed(self, version: int, *, permanent: bool, now: float) -> None:
        """A load ended without a flip; `permanent` where repeating it cannot help."""
        self._loading = 0
        if permanent:
            self._refused.add(version)
            return
        pause = min(FIRST_PAUSE_S * 2**self._failures, LONGEST_PAUSE_S)
        self._failures += 1
        self._retry_at = now + pause

    def on_set_aside(self) -> None:
        """A loaded version was not allowed to flip."""
        self._loading = 0

    def take_version(self, *, now: float) -> int | None:
        """The version to load now; None while there is none, one is loading or a pause lasts.

        Each version taken ends in `on_serving`, `on_failed` or `on_set_aside`.
        """
        if self._loading or (self._retry_at is not None and now < self._retry_at):
            return None
        version = self._candidate()
        if version is not None:
            self._loading = version
            self._retry_at = None
        return version

    def next_wakeup(self) -> float | None:
        """When a pause ends; None where only a fact can change the decision."""
        return None if self._loading or self._candidate() is None else self._retry_at

    def may_flip(self, version: int) -> bool:
        """Whether a loaded version may serve, though the channel may have moved meanwhile.

        Later publications do not hold it up, else a fast publisher would starve the replica. A
        channel that went back below it was rolled back: it must not serve, not for a moment.
        """
        return version == self._pinned if self._pinned else version <= self._wanted

    def snapshot(self) -> PursuitSnapshot:
        """Where it stands."""
        return PursuitSnapshot(self._wanted, self._serving, self._behind_since)

    def _candidate(self) -> int | None:
        if self._wanted in (0, self._serving):
            return None
        if self._wanted not in self._refused:
            return self._wanted
        if self._serving:
            return None
        return next((v for v in reversed(self._fallbacks) if v not in self._refused), None)

    def _want(self, version: int, fallbacks: tuple[int, ...], now: float) -> None:
        self._wanted = version
        self._fallbacks = fallbacks
        self._refused.clear()
        self._failures = 0
        self._retry_at = None
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
