"""A rollout's candidate beside the version that serves: which batches tell what of either.

The candidate never costs a caller an answer: what it fails, or takes too long for, goes to the
version beside it, and is held against the candidate only where that one can answer. What neither
answers is the request's fault. A batch lost with its endpoint counts against the version it was on,
whichever that is. Batches pinned by their callers, sequences and decoupled requests are outside the
comparison, and so are requests that the candidate had no room for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from gateway import metrics
from gateway.arms import Arm, Arms, Figures
from gateway.dispatch.delivery import Failure
from gateway.ingress.batch import Batch, BatchReply, Part, Sample, Shadow
from gateway.policy.lane import QueueKey
from gateway.policy.retry import INCAPABLE, Fault
from gateway.policy.speed import Observation
from gateway.shadow import compare


class Comparison:
    """Counts into `arms`; `draw` gives numbers from 0 to 1."""

    def __init__(self, arms: Arms, *, draw: Callable[[], float] = random.random) -> None:
        self._arms = arms
        self._draw = draw

    def on_answered(
        self, batch: Batch, reply: BatchReply, seen: Observation | None, now: float
    ) -> None:
        """A batch is about to be answered; before it gives the answers to its requests."""
        figures = self._figures(batch)
        if figures is None:
            return
        if batch.blamed:
            self._fail(self._blamed(batch, figures), batch, len(batch.waits_ms(now)))
            return
        arm = self._arm(batch, figures, reply)
        if arm is not None:
            self._note(arm, batch, seen, now)

    def on_failed(self, batch: Batch, failure: Failure) -> bool:
        """An attempt failed; whether the batch was the candidate's, and goes on without it."""
        if isinstance(batch, Shadow):
            figures = self._figures(batch)
            same = figures is not None and figures.stage.version == batch.pinned
            if figures is not None and same and failure.fault not in INCAPABLE:
                figures.shadow.batches += 1
                figures.shadow.failed += 1
            return False
        if batch.done:
            return False
        if not (batch.key.candidate and batch.pinned):
            # As for the candidate's: else the loss of a replica would speak against that alone.
            batch.blamed |= failure.fault is Fault.BROKEN and self._beside(batch)
            return False
        batch.leave_candidate(blamed=failure.fault not in INCAPABLE)
        metrics.ROLLOUT_REQUESTS.labels(batch.key.model, "candidate", "returned").inc(len(batch))
        return True

    def on_given_up(self, batch: Batch, failure: Failure, now: float) -> None:
        """A batch fails for good; before its requests hear of it."""
        if failure.fault in (Fault.INPUT, *INCAPABLE):
            return
        figures = self._figures(batch)
        if figures is not None and not batch.key.candidate and self._beside(batch):
            self._fail(figures.control, batch, len(batch.waits_ms(now)))

    def on_expired(self, batch: Batch, count: int) -> None:
        """The deadlines of so many of its requests passed while it was under way."""
        figures = self._figures(batch) if count else None
        if figures is None:
            return
        if batch.blamed or (batch.key.candidate and batch.pinned):
            self._fail(self._blamed(batch, figures), batch, count)
        elif self._beside(batch) and not batch.key.candidate:
            self._fail(figures.control, batch, count)

    def copy_of(self, batch: Batch, reply: BatchReply, now: float) -> Shadow | None:
        """A copy of an answered batch for the candidate; None where it is not its turn."""
        figures = self._figures(batch)
        if figures is None or not figures.stage.shadow or not self._beside(batch):
            return None
        if batch.key.candidate or self._draw() >= figures.stage.shadow:
            return None
        shadowed = figures.shadow

        def judge(got: Sequence[Part], copy: Sequence[Part], rows: int) -> None:
            shadowed.batches += 1
            compare(shadowed, got, copy, rows)

        return batch.shadow(figures.stage.version, reply, judge, now)

    def _figures(self, batch: Batch) -> Figures | None:
        key = batch.key
        return self._arms.of(key.model, key.version if key.candidate else 0)

    def over(self, key: QueueKey) -> bool:
        """Whether the queue's requests wait for a candidate that is none any more."""
        return key.candidate and not self._arms.on_trial(key.model, key.version)

    def _blamed(self, batch: Batch, figures: Figures) -> Arm:
        return figures.candidate if batch.key.candidate else figures.control

    def _arm(self, batch: Batch, figures: Figures, reply: BatchReply) -> Arm | None:
        if batch.key.candidate:
            return figures.candidate if batch.pinned == figures.stage.version else None
        if not self._beside(batch) or not reply.version.isdecimal():
            return None
        figures.note_beside(int(reply.version))
        return figures.control

    def _beside(self, batch: Batch) -> bool:
        """Whether it might have gone to the candidate."""
        if isinstance(batch, Sample) or batch.pinned or batch.key.alone:
            return False
        return all(name != "channel" for name, _ in batch.carried)

    def _note(self, arm: Arm, batch: Batch, seen: Observation | None, now: float) -> None:
        waits_ms = batch.waits_ms(now)
        arm.requests += len(waits_ms)
        for wait_ms in waits_ms:
            arm.latency_ms.add(wait_ms)
        if seen is not None and seen.expected_s:
            arm.slowness.add(seen.seconds / seen.expected_s)
        side = "candidate" if batch.key.candidate else "control"
        metrics.ROLLOUT_REQUESTS.labels(batch.key.model, side, "answered").inc(len(waits_ms))

    def _fail(self, arm: Arm, batch: Batch, count: int) -> None:
        arm.requests += count
        arm.failed += count
        side = "candidate" if batch.key.candidate else "control"
        metrics.ROLLOUT_REQUESTS.labels(batch.key.model, side, "failed").inc(count)
