"""How much one identity may ask: requests and bytes per second, and requests at once.

Two token buckets and a count. A bucket fills at its rate up to its burst and each request takes
from it. A message larger than the burst would never fit, so it is let in by a full bucket and
leaves it in debt: the rate holds over time whatever the sizes. What was refused takes nothing.

Law, tested: whoever waits the `retry_after_s` of a refusal by rate, and finds nobody else asking,
is let in; over any span of T seconds no more than burst + rate * T is let in, but for the last.
"""

from __future__ import annotations

from dataclasses import dataclass

# A wait shorter than this is none: seconds waited and levels filled are sums of floats.
_SLACK_S = 1e-6


@dataclass(frozen=True, slots=True)
class Quota:
    """What one identity may ask; 0 is without bound.

    `burst_requests` and `burst_bytes` may come at once after a rest; 0 is what one second brings,
    at least one request.
    """

    requests_per_s: float = 0.0
    bytes_per_s: float = 0.0
    max_concurrent: int = 0
    burst_requests: float = 0.0
    burst_bytes: float = 0.0

    @property
    def unbounded(self) -> bool:
        """Whether nothing is ever refused."""
        return not (self.requests_per_s or self.bytes_per_s or self.max_concurrent)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not let in: a stable reason, a sentence, and when to ask again.

    `retry_after_s` is None where only the end of another request helps.
    """

    reason: str
    sentence: str
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class QuotaSnapshot:
    """Numbers now: what the buckets hold (negative: debt), and requests inside."""

    requests: float
    size_bytes: float
    concurrent: int


class _Bucket:
    """Holds up to `burst`, gains `rate` per second; one without a rate never lacks anything."""

    __slots__ = ("_filled_at", "burst", "level", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.level = burst
        self._filled_at = now

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until `amount` may be taken; 0 if now."""
        if not self.rate:
            return 0.0
        if now > self._filled_at:
            self.level = min(self.burst, self.level + (now - self._filled_at) * self.rate)
            self._filled_at = now
        wait_s = (min(amount, self.burst) - self.level) / self.rate
        return wait_s if wait_s > _SLACK_S else 0.0

    def take(self, amount: float) -> None:
        if self.rate:
            self.level -= amount


class Meter:
    """Counts one identity's requests against its quota."""

    def __init__(self, quota: Quota, *, now: float) -> None:
        self.quota = quota
        self._concurrent = 0
        self._requests, self._bytes = _buckets(quota, now)

    def enter(self, size_bytes: int, *, now: float) -> Refusal | None:
        """Lets a request of `size_bytes` in (None) or refuses it; one let in must `leave`."""
        quota = self.quota
        if quota.max_concurrent and self._concurrent >= quota.max_concurrent:
            return Refusal(
                "QUOTA_CONCURRENCY",
                f"{quota.max_concurrent} requests at once are allowed, and as many are under way",
                None,
            )
        wait_s = self._requests.wait_s(1.0, now)
        if wait_s:
            sentence = f"{quota.requests_per_s:g} requests per second are allowed"
            return Refusal("QUOTA_REQUESTS", sentence, wait_s)
        wait_s = self._bytes.wait_s(size_bytes, now)
        if wait_s:
            sentence = f"{quota.bytes_per_s:g} bytes per second are allowed"
            return Refusal("QUOTA_BYTES", f"{sentence}; this message has {size_bytes}", wait_s)
        self._requests.take(1.0)
        self._bytes.take(size_bytes)
        self._concurrent += 1
        return None

    def leave(self) -> None:
        """A request that was let in has ended."""
        self._concurrent -= 1

    def change(self, quota: Quota, *, now: float) -> None:
        """Another quota from now on; requests under way still count, the buckets start full."""
        if quota != self.quota:
            self.quota = quota
            self._requests, self._bytes = _buckets(quota, now)

    def snapshot(self) -> QuotaSnapshot:
        """As of the last request."""
        return QuotaSnapshot(self._requests.level, self._bytes.level, self._concurrent)

    def __repr__(self) -> str:
        return f"Meter({self.quota}, {self.snapshot()})"


def _buckets(quota: Quota, now: float) -> tuple[_Bucket, _Bucket]:
    requests = max(quota.burst_requests or quota.requests_per_s, 1.0)
    size_bytes = quota.burst_bytes or quota.bytes_per_s
    return _Bucket(quota.requests_per_s, requests, now), _Bucket(quota.bytes_per_s, size_bytes, now)
