"""Which numbers of a count are missing, as ranges: small however many there are.

Pure. Used where the versions that exist are told by a count and not by a list.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gaps:
    """`ranges` are the first and last missing number of each gap, ascending, apart."""

    ranges: tuple[tuple[int, int], ...] = ()

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self.ranges, (number, number)) - 1
        near = self.ranges[max(0, at) : at + 2]
        return any(first <= number <= last for first, last in near)

    def widened(self, numbers: Collection[int]) -> Gaps:
        """The gaps with `numbers` missing too."""
        ranges = [*self.ranges, *((number, number) for number in numbers)]
        joined: list[tuple[int, int]] = []
        for first, last in sorted(ranges):
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
            else:
                joined.append((first, last))
        return Gaps(tuple(joined))

    def others(self, newest: int) -> list[int]:
        """The numbers from 1 to `newest` that are not missing, ascending."""
        return [number for span in self._between(newest) for number in span]

    def _between(self, newest: int) -> Iterable[range]:
        begin = 1
        for first, last in self.ranges:
            yield range(begin, min(first, newest + 1))
            begin = last + 1
        yield range(begin, newest + 1)


NO_GAPS = Gaps()
