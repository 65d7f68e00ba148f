"""Whether and when a client tries again, as gRPC's own retry policy does (gRFC A6).

Only what a server refused before it began on it, or what found no server, is tried again. A server
that sends `grpc-retry-pushback-ms` decides itself: so many milliseconds, or never.
"""

from __future__ import annotations

RETRIED = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED"})
PUSHBACK = "grpc-retry-pushback-ms"

FIRST_BACKOFF_S = 0.05
MOST_BACKOFF_S = 2.0
GROWTH = 2.0


def retry_after_s(
    code: str, pushback: str | None, *, retry: int, retries: int, draw: float
) -> float | None:
    """Seconds to wait before retry number `retry` (from 0) of at most `retries`; None: give up.

    `pushback` is what the server sent, None where it sent nothing; `draw` is uniform in [0, 1) and
    spreads the retries of many clients.
    """
    if retry >= retries or code not in RETRIED:
        return None
    if pushback is not None:
        return int(pushback) / 1e3 if pushback.isascii() and pushback.isdigit() else None
    return draw * min(FIRST_BACKOFF_S * GROWTH**retry, MOST_BACKOFF_S)
