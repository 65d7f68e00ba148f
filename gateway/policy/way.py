"""How long the way to an endpoint and back takes, for a question that needs no work.

Kept as TCP keeps its round trip times: a mean, a mean deviation, and what nearly all ways stay
within, four deviations above the mean. By the mean alone every other one would take longer.

Source: RFC 6298, section 2.
"""

from __future__ import annotations

# Of a new measurement in the mean, and in the mean deviation.
MEAN_WEIGHT = 1 / 8
DEVIATION_WEIGHT = 1 / 4
DEVIATIONS = 4


class Way:
    """Seconds; 0 until the first measurement."""

    __slots__ = ("_deviation_s", "mean_s", "most_s")

    def __init__(self) -> None:
        self.mean_s = 0.0
        self.most_s = 0.0
        self._deviation_s = 0.0

    def on_way(self, seconds: float) -> None:
        """So long took one, through the same loop as answers to callers."""
        if not self.mean_s:
            self.mean_s, self._deviation_s = seconds, seconds / 2
        else:
            off_s = seconds - self.mean_s
            self._deviation_s += DEVIATION_WEIGHT * (abs(off_s) - self._deviation_s)
            self.mean_s += MEAN_WEIGHT * off_s
        self.most_s = self.mean_s + DEVIATIONS * self._deviation_s
