"""From a learner to versions: asks the policy, evaluates, publishes, remembers.

Decides that a version carries the metrics of its own weights, that a store which is away does not
stop the training, and that each job fences its predecessors. What is due is the policy's decision,
what a version is the Publisher's.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from os import getpid
from pathlib import Path
from typing import Any

from chassis.errors import Aborted, DeadlineExceeded, ResourceExhausted, Unavailable
from chassis.telemetry import logger
from headrace.policy.publish_policy import PublishPolicy, PublishRule, Reason
from headrace.publisher import Publisher
from model_store import Store
from trainer_service.job.learner import Learner

log = logger(__name__)

# The store may be back later, or somebody may make room.
_PASSING = (Unavailable, Aborted, DeadlineExceeded, ResourceExhausted)


class Release:
    """`facts` are those of the checkpoint the learner was restored from, `parent` the run's last
    version, `owner` its name. Takes over the model: earlier publishers are fenced.
    """

    def __init__(
        self,
        store: Store,
        learner: Learner,
        rule: PublishRule,
        facts: Mapping[str, Any],
        *,
        channel: str,
        parent: int,
        owner: str,
        signing_key: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._learner = learner
        self._clock = clock
        self._evaluated_step = -1
        self.metrics: dict[str, float] = {}
        self.versions = 0
        self.error = ""
        producer = f"{socket.gethostname()}:{getpid()} run {owner}"
        name = learner.model.name
        self.policy = PublishPolicy(
            rule,
            now=clock(),
            step=learner.step,
            published_step=facts.get("published_step"),
            best=facts.get("best"),
        )
        epoch = None
        try:
            epoch = store.acquire_epoch(name, producer)
            if not store.versions(name):
                self.policy.on_no_version()
        except _PASSING as error:
            # The publisher takes an epoch when the store is back.
            self._note(error)
        self._publisher = Publisher(
            store,
            learner.model,
            channel=channel,
            epoch=epoch,
            parent=parent,
            producer=producer,
            signing_key=signing_key,
        )

    @property
    def last_version(self) -> int:
        """The newest version of the run; 0 before the first."""
        return self._publisher.last_version

    def facts(self) -> dict[str, Any]:
        """What a checkpoint must hold, as JSON values."""
        snapshot = self.policy.snapshot()
        return {"published_step": snapshot.published_step, "best": snapshot.best}

    def evaluate(self) -> None:
        """Evaluates the learner unless that was done at this step."""
        if self._evaluated_step != self._learner.step:
            self.metrics = self._learner.evaluate()
            self._evaluated_step = self._learner.step
            self.policy.on_evaluation(self.metrics)

    def publish_due(self) -> bool:
        """Publishes if something is due; returns whether a version was made.

        Raises what Publisher.publish raises, less what a store that is away raises.
        """
        reason = self.policy.take_due(self._clock())
        if reason is None:
            return False
        self.evaluate()
        try:
            self._publish(reason)
        except _PASSING as error:
            self._note(error)
            self.policy.on_failed(self._clock())
            return False
        return True

    def _publish(self, reason: Reason) -> None:
        started = self._clock()
        version = self._publisher.publish(
            self._learner.module, step=self._learner.step, metrics=self.metrics
        )
        self.versions += 1
        self.error = ""
        log.info(
            "published",
            model=self._publisher.name,
            version=version,
            step=self._learner.step,
            reason=reason.name.lower(),
            seconds=round(self._clock() - started, 3),
        )

    def _note(self, error: Exception) -> None:
        self.error = f"not published, to be repeated: {error}"
        log.warning("not published, to be repeated", why=str(error))
