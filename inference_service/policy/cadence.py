"""Whether versions still come as they did, and whether a second trainer came between.

A trainer that was killed, or whose store takes nothing more, cannot tell those who read the store.
What they can see is that its versions stopped coming. Pure: the channel comes in with `now`
(seconds on any monotonic clock). Gaps between publications are differences of their own times, the
silence is measured here: no clock is compared with that of another machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model_store.records import Channel

# So many gaps of one trainer make a habit.
GAPS = 3
# Overdue after this many of the longest of them, and not before so many seconds.
TIMES = 3.0
LEAST_S = 2.0
# How long a takeover is told.
TOLD_S = 60.0

OVERDUE = "PUBLICATIONS_OVERDUE"
REPLACED = "TRAINER_REPLACED"


@dataclass(frozen=True, slots=True)
class Irregularity:
    """A reason and a sentence."""

    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class Cadence:
    """Of the publications to one channel. Not safe for threads."""

    def __init__(self) -> None:
        self._channel: Channel | None = None
        self._since = 0.0
        self._replaced: tuple[Irregularity, float] | None = None

    def on_channel(self, channel: Channel | None, *, now: float) -> None:
        """The channel as it is read from now on; None where another one is followed, not yet
        read."""
        before = self._channel
        if channel is None or before is None or before.name != channel.name:
            self._replaced = None
        elif channel.epoch > before.epoch:
            self._note_takeover(before, channel, now)
        self._channel, self._since = channel, now

    def irregularity(self, *, now: float) -> Irregularity | None:
        """What is unusual now. A held channel stands still because somebody wants it to."""
        if self._replaced is not None and now - self._replaced[1] <= TOLD_S:
            return self._replaced[0]
        channel, silent_s = self._channel, now - self._since
        if channel is None or channel.held:
            return None
        longest_s = _longest_gap_s(channel)
        if longest_s is None or silent_s <= _bound_s(longest_s):
            return None
        return Irregularity(
            OVERDUE,
            f"no version was published since version {channel.version}, {silent_s:.0f} s ago; "
            f"until then at most {longest_s:.2g} s lay between two",
        )

    def _note_takeover(self, before: Channel, channel: Channel, now: float) -> None:
        longest_s, silent_s = _longest_gap_s(before), now - self._since
        # One that was silent for long is gone, and had to be replaced.
        if longest_s is None or silent_s > _bound_s(longest_s):
            return
        found = Irregularity(
            REPLACED,
            f"the trainer of epoch {channel.epoch} took over {silent_s:.2g} s after that of epoch "
            f"{before.epoch} had published: it was restarted, or two train at once",
        )
        self._replaced = found, now


def _bound_s(longest_s: float) -> float:
    return max(LEAST_S, TIMES * longest_s)


def _longest_gap_s(channel: Channel) -> float | None:
    """Between publications of the present trainer that the history knows; None if too few."""
    times = list(_publish_times_ms(channel))
    if len(times) <= GAPS:
        return None
    return max(after - before for before, after in pairwise(times)) / 1000


def _publish_times_ms(channel: Channel) -> Iterator[int]:
    for move in channel.history:
        if move.published and move.epoch == channel.epoch:
            yield move.move_time_ms
