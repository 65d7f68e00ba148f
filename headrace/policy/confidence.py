"""How sure a difference between two samples is: bounds of shares and of means.

Pure arithmetic without a table or a library. Shares have the exact bounds of Clopper and Pearson
(1934), because rollouts judge by few requests: of one failure in three Wilson's score interval is
surer than it may be. Their difference is bounded by adding the squares of the distances to the
bounds, as Newcombe (1998, Statistics in Medicine 17, method 10) does with Wilson's. Means are
compared by Welch's test (1947). Sums in floating point lose a small variance beside a large mean:
what they may have lost counts as variance, and numbers that overflow decide nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_BISECTIONS = 60
# A continued fraction of that many terms serves samples of some 10^9.
_TERMS = 100_000
_TINY = 1e-300
# Of the sum of squares: what adding up may have lost of it and of the squared sum, for each number
# a half unit in the last place (Higham 2002, Accuracy and Stability of Numerical Algorithms,
# chapter 4).
_LOST = 2.0**-51


@dataclass(frozen=True, slots=True)
class Sample:
    """Numbers of which only the count, the sum and the sum of squares are known."""

    count: int = 0
    sum: float = 0.0
    sum_squares: float = 0.0

    @property
    def mean(self) -> float:
        """Of none it is 0."""
        return self.sum / self.count if self.count else 0.0

    @property
    def variance(self) -> float:
        """Unbiased; of fewer than two it is 0."""
        if self.count < 2:
            return 0.0
        return max(0.0, self._spread) / (self.count - 1)

    @property
    def greatest_variance(self) -> float:
        """What the variance is at most, rounding considered. Of sums that overflowed infinite."""
        if not math.isfinite(self._spread):
            return math.inf
        return self.variance + _LOST * self.sum_squares

    @property
    def _spread(self) -> float:
        """The squared distances to the mean, added up."""
        return self.sum_squares - self.sum * self.mean

    def __add__(self, other: Sample) -> Sample:
        return Sample(
            self.count + other.count,
            self.sum + other.sum,
            self.sum_squares + other.sum_squares,
        )


def spent(alpha: float, looks: int) -> float:
    """What of the error `alpha` may be spent on a sample of `looks`, looked at as it grows.

    Each doubling of the sample has its part, alpha / ((k + 1) (k + 2)); together they are alpha.
    """
    doublings = max(looks, 1).bit_length() - 1
    return alpha / ((doublings + 1) * (doublings + 2))


def least_share(hits: int, count: int, alpha: float) -> float:
    """The share below which so many hits of `count` would have a chance under `alpha`."""
    if hits <= 0 or count <= 0:
        return 0.0
    # More hits than there were are all: the numbers are somebody else's, and must stop no loop.
    return _quantile(hits, max(count - hits, 0) + 1, alpha)


def greatest_share(hits: int, count: int, alpha: float) -> float:
    """The share above which so few hits of `count` would have a chance under `alpha`."""
    return 1.0 - least_share(count - hits, count, alpha)


def least_difference(
    hits: int, count: int, other_hits: int, other_count: int, alpha: float
) -> float:
    """By how much the first share exceeds the other at least. Of no others the share is 0."""
    share = hits / count if count else 0.0
    other = other_hits / other_count if other_count else 0.0
    below = share - least_share(hits, count, alpha)
    above = greatest_share(other_hits, other_count, alpha) - other if other_count else 0.0
    return share - other - math.hypot(below, above)


def exceeds(
    one: Sample, other: Sample, alpha: float, *, factor: float = 1.0, margin: float = 0.0
) -> bool:
    """Whether the mean of `one` is above `factor` times that of `other` by more than `margin`, but
    for chance `alpha`.

    Where a sample varies less than both together, they are taken to vary alike: a few equal
    numbers are no certainty. False where either has fewer than two, and where sums are too large
    or too small for their variance to be known.
    """
    if min(one.count, other.count) < 2:
        return False
    scaled = Sample(other.count, factor * other.sum, factor * factor * other.sum_squares)
    distance = one.mean - scaled.mean - margin
    # Not a number is no distance.
    if not distance > 0:
        return False
    both = _common_variance(one, scaled)
    first = max(one.greatest_variance, both) / one.count
    second = max(scaled.greatest_variance, both) / scaled.count
    # Nothing at all are squares that were too small for a number.
    if not 0 < first + second < math.inf:
        return False
    # As parts of their sum: the squares of what is tiny would be nothing.
    part = first / (first + second)
    freedom = 1 / (part**2 / (one.count - 1) + (1 - part) ** 2 / (scaled.count - 1))
    return distance > _student(freedom, alpha) * math.sqrt(first + second)


def _common_variance(one: Sample, other: Sample) -> float:
    """Around each one's own mean."""
    freedom, others = one.count - 1, other.count - 1
    squares = one.greatest_variance * freedom + other.greatest_variance * others
    return squares / (freedom + others)


def _student(freedom: float, alpha: float) -> float:
    """What Student's t exceeds with the chance `alpha`, which is below a half."""
    part = _quantile(0.5, freedom / 2, 1 - 2 * alpha)
    return math.sqrt(freedom * part / max(1 - part, _TINY))


def _quantile(a: float, b: float, chance: float) -> float:
    """Where the beta distribution's distribution function reaches `chance`."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _beta(a, b, middle) < chance:
            low = middle
        else:
            high = middle
    return low


def _beta(a: float, b: float, x: float) -> float:
    """The regularized incomplete beta function."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _beta(b, a, 1 - x)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(logarithm + a * math.log(x) + b * math.log1p(-x))
    return front * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    """Its continued fraction by Lentz's method (Press et al., Numerical Recipes, 6.4)."""
    c, d = 1.0, 1 / _apart_from_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _apart_from_zero(1 + term * d)
            c = _apart_from_zero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < 1e-13:
            break
    return value


def _apart_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
