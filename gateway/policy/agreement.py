"""Which description of a model counts where endpoints disagree.

The one most endpoints give; the current one keeps its place in a tie, so that one odd endpoint
never changes what clients see, and a fleet that has moved on does. What the odd one out loses is
decided by the caller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import TypeVar

S = TypeVar("S", bound=Hashable)


def agreed(current: S | None, claims: Iterable[S]) -> S | None:
    """The description that counts; the current one where nobody claims any."""
    counts = Counter(claims)
    if not counts:
        return current
    most = max(counts.values())
    if current is not None and counts.get(current) == most:
        return current
    return next(claim for claim, count in counts.items() if count == most)
