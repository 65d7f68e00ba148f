"""The loop of a job: step, evaluate, publish, checkpoint, report; and when to end.

Decides the order within a step. A publication comes before the checkpoint of its step, so that a
job killed in between publishes that step again rather than never. Every rank makes the same steps
and checkpoints; commands, pace, evaluation and publication are rank 0's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from os import getpid

from trainer_service.job.checkpoints import Checkpoints
from trainer_service.job.commands import Command, Commands
from trainer_service.job.learner import Learner
from trainer_service.job.ranks import Ranks
from trainer_service.job.release import Release
from trainer_service.policy.pace import Pace
from trainer_service.report import JobReport, Phase
from trainer_service.spec import RunSpec

REPORT_EVERY_S = 0.2


class Training:
    """Runs `learner` as `spec` says; `release` is None on every rank but the first."""

    def __init__(
        self,
        spec: RunSpec,
        ranks: Ranks,
        learner: Learner,
        checkpoints: Checkpoints,
        release: Release | None,
        *,
        commands: Commands,
        report: Callable[[JobReport], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._ranks = ranks
        self._learner = learner
        self._checkpoints = checkpoints
        self._release = release
        self._commands = commands
        self._report = report
        self._clock = clock
        self._pace = Pace(spec.max_steps_per_s, now=clock())
        self._loss = 0.0
        self._checkpoint_step = learner.step
        self._report_at = clock()

    def begin(self) -> None:
        """Evaluates, publishes a first version where the model has none, reports."""
        if self._release is not None:
            self._release.evaluate()
            self._release.publish_due()
            self._tell(Phase.STEPPING)

    def run(self) -> Phase:
        """Steps until max_steps or until asked to finish; checkpointed when it returns."""
        while not self._complete():
            if self._ranks.agreed(self._asked_to_finish()):
                return self._end(Phase.RELEASED)
            self._loss = self._learner.advance()
            self._pace.on_step(self._clock())
            self._after_step()
        if self._release is not None:
            self._release.policy.on_end()
            self._release.publish_due()
        return self._end(Phase.COMPLETED)

    def _complete(self) -> bool:
        return 0 < self._spec.max_steps <= self._learner.step

    def _asked_to_finish(self) -> bool:
        """Waits for the pace, and does what commands and the policy ask meanwhile."""
        release = self._release
        while release is not None:
            if release.publish_due():
                self._tell(Phase.STEPPING)
            command = self._commands.next(self._spare_s(release))
            if command is Command.FINISH:
                return True
            if command is Command.PUBLISH:
                release.policy.on_request()
            elif self._pace.delay_s(self._clock()) <= 0:
                return False
        return False

    def _spare_s(self, release: Release) -> float:
        """Seconds until the next step or until the policy has something to say."""
        now = self._clock()
        delay_s = self._pace.delay_s(now)
        wakeup = release.policy.next_wakeup()
        return delay_s if wakeup is None else min(delay_s, max(0.0, wakeup - now))

    def _after_step(self) -> None:
        step = self._learner.step
        if self._release is not None:
            self._release.policy.on_step(step)
            if step % self._spec.evaluate_every_steps == 0:
                self._release.evaluate()
            if self._release.publish_due():
                self._tell(Phase.STEPPING)
        if step % self._spec.checkpoint_every_steps == 0:
            self._checkpoint()
        if self._release is not None and self._clock() >= self._report_at:
            self._tell(Phase.STEPPING)

    def _checkpoint(self) -> None:
        facts = {} if self._release is None else self._release.facts()
        self._checkpoints.save(self._learner, facts)
        self._checkpoint_step = self._learner.step

    def _end(self, phase: Phase) -> Phase:
        # At step 0 there is nothing to keep, and a fresh optimizer has no state yet.
        if self._learner.step > self._checkpoint_step:
            self._checkpoint()
        if self._release is not None:
            self._tell(phase)
        return phase

    def _tell(self, phase: Phase) -> None:
        release, now = self._release, self._clock()
        assert release is not None
        self._report_at = now + REPORT_EVERY_S
        self._report(
            JobReport(
                phase,
                pid=getpid(),
                step=self._learner.step,
                loss=self._loss,
                metrics=release.metrics,
                steps_per_s=self._pace.steps_per_s(now),
                versions=release.versions,
                last_version=release.last_version,
                checkpoint_step=self._checkpoint_step,
                error=release.error,
            )
        )
