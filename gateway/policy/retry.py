"""Whether a batch that failed is sent again, where, and at whose expense.

What went wrong is told as a `Fault`. The budget keeps retries a small part of the traffic: every
success earns a tenth of a token, every retry costs one, so a fleet that fails everything is asked
about 1.1 times as much, not `max_attempts` times (Finagle's and the SRE book's retry budget). The
tokens kept in stock cover the batches that one crash takes along.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

EARNED_PER_SUCCESS = 0.1
# A crash of a large fleet's node, or of several at once, must not find the purse empty.
MAX_TOKENS = 100.0


class Fault(Enum):
    """Who is at fault for a failed batch, as far as the failure tells."""

    # The connection or the process is gone or mute: elsewhere, or here once it is back.
    BROKEN = "broken"
    # This endpoint cannot (version not loaded): only elsewhere.
    REFUSED = "refused"
    # This endpoint cannot now (its queue or memory is full), and has done nothing: elsewhere.
    BUSY = "busy"
    # The batch's own input: the request at fault fails, its neighbours do not.
    INPUT = "input"
    # The batch or the endpoint, nobody knows: find the request, then try elsewhere.
    DEFECT = "defect"
    # Nothing will change it.
    FINAL = "final"


# What the endpoint could not do says nothing of the batch, nor of the version it was to run on.
INCAPABLE = (Fault.REFUSED, Fault.BUSY)


class Verdict(Enum):
    """What becomes of a failed batch."""

    RETRY = "retry"
    # Each request goes again, alone.
    ISOLATE = "isolate"
    GIVE_UP = "give_up"


@dataclass(frozen=True, slots=True)
class RetrySnapshot:
    """Tokens left, and how many retries were allowed and refused for want of one."""

    tokens: float
    allowed: int
    refused: int


class RetryPolicy:
    """Decides per failed batch; `max_attempts` counts the first attempt."""

    def __init__(self, *, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._tokens = MAX_TOKENS
        self._allowed = 0
        self._refused = 0

    def on_success(self) -> None:
        """A batch was answered."""
        self._tokens = min(MAX_TOKENS, self._tokens + EARNED_PER_SUCCESS)

    def take_hedge(self) -> bool:
        """Whether a batch may be sent a second time while the first attempt is still out."""
        if self._tokens < 1:
            self._refused += 1
            return False
        self._tokens -= 1
        self._allowed += 1
        return True

    def decide(
        self, fault: Fault, *, attempts: int, requests: int, elsewhere: bool, begun: bool = False
    ) -> Verdict:
        """For a batch of `requests` requests after `attempts` attempts.

        `elsewhere`: an endpoint could take it that has not refused it. `begun`: its caller got a
        part of the answer, so that no other attempt can give the rest.
        """
        wanted = Verdict.GIVE_UP if begun else self._wanted(fault, requests, elsewhere)
        if wanted is Verdict.ISOLATE and fault is Fault.INPUT:
            # Free of charge: each request goes once more at most, and what is wrong with one of
            # them must not be told the others, however many callers send wrong ones.
            return wanted
        if wanted is Verdict.GIVE_UP or attempts >= self._max_attempts:
            return Verdict.GIVE_UP
        if self._tokens < 1:
            self._refused += 1
            return Verdict.GIVE_UP
        self._tokens -= 1
        self._allowed += 1
        return wanted

    def _wanted(self, fault: Fault, requests: int, elsewhere: bool) -> Verdict:
        if fault is Fault.BROKEN:
            return Verdict.RETRY
        if fault in (Fault.INPUT, Fault.DEFECT) and requests > 1:
            return Verdict.ISOLATE
        if fault in (*INCAPABLE, Fault.DEFECT) and elsewhere:
            return Verdict.RETRY
        return Verdict.GIVE_UP

    def snapshot(self) -> RetrySnapshot:
        """The budget now."""
        return RetrySnapshot(self._tokens, self._allowed, self._refused)
