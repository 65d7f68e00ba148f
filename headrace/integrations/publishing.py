"""What every callback does between a trainer's hooks and the Publisher.

Decides that nothing which goes wrong with a publication ends a training unless that is asked for,
that a gate sees the newest metrics before anything is published, and what a checkpoint must hold
so that a resumed training continues its line. When a publication is due is the policy's decision;
which hook means what is the callback's. For one process: the first of a distributed training.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from chassis.errors import FailedPrecondition, HeadraceError, InvalidArgument
from chassis.telemetry import logger
from headrace.gate import Gate, refusal_of
from headrace.model import Model
from headrace.policy.publish_policy import PublishPolicy, PublishRule, Reason
from headrace.publisher import Publisher
from headrace.weights import unwrapped
from model_store import Store

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a checkpoint must hold: the last version, the step it was made at, the best metric."""

    last_version: int = 0
    published_step: int | None = None
    best: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a callback was asked to do; the arguments of all callbacks.

    `store` and `model` are Publisher's, and so are `options` (inputs, example_inputs, channel ...).
    `part` names the submodule to publish, such as "model"; empty for the whole module.
    `gate` gets the newest metrics and says whether these weights may be published; or it holds
    bounds by metric, as Publisher's.
    `raise_errors` lets a publication that fails end the training; else it is logged and counted.
    """

    store: str | Store
    model: str | Model
    rule: PublishRule
    part: str = ""
    gate: Gate | None = None
    raise_errors: bool = False
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        # An option that does not exist is told now, not when the training begins.
        inspect.signature(Publisher).bind(self.store, self.model, **self.options)
        if self.gate is not None:
            refusal_of(self.gate)
        for name in ("every_steps", "every_s"):
            value = getattr(self.rule, name)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidArgument("BAD_RULE", f"{name}: expected 0 or more, got {value}")

    @property
    def name(self) -> str:
        """The model's."""
        return self.model.name if isinstance(self.model, Model) else self.model

    def require_rule(self) -> None:
        """Refuses a plan that never publishes. Raises InvalidArgument (NO_RULE)."""
        if not (self.rule.every_steps or self.rule.every_s or self.rule.metric):
            raise InvalidArgument(
                "NO_RULE", "nothing would be published: give every_steps, every_s or metric"
            )


class Publishing:
    """One training's publications. `module` is the whole module that is trained, `step` where it
    stands, `progress` that of the checkpoint it goes on from.

    `versions` and `failures` count what became of publications, `withheld` those that the gate
    refused, `error` is the last failure in words, empty after a success.
    Raises InvalidArgument where the plan cannot be published by (BAD_STORE_URL, BAD_NAME ...),
    AttributeError where the module has no such part.
    """

    def __init__(
        self,
        plan: Plan,
        module: nn.Module,
        *,
        step: int,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._refusal = None if plan.gate is None else refusal_of(plan.gate)
        self._module = unwrapped(module).get_submodule(plan.part)
        self._clock = clock
        self._progress = progress
        self._metrics: dict[str, float] = {}
        # Whether it was told that the rule's metric is not among them.
        self._missed = False
        # Closed, or fenced by a newer publisher.
        self._over = False
        self.versions = self.failures = self.withheld = 0
        self.error = ""
        self.policy = PublishPolicy(
            plan.rule,
            now=clock(),
            step=step,
            published_step=progress.published_step,
            best=progress.best,
        )
        self._step = step
        self._publisher: Publisher | None = None
        try:
            self._opened()
        except InvalidArgument:
            raise
        except HeadraceError as error:
            self._note(error)

    @property
    def progress(self) -> Progress:
        """What to keep with a checkpoint made now."""
        snapshot = self.policy.snapshot()
        return Progress(self.last_version, snapshot.published_step, snapshot.best)

    @property
    def last_version(self) -> int:
        """The newest version of this training, 0 before the first."""
        if self._publisher is None:
            return self._progress.last_version
        return self._publisher.last_version

    def on_step(self, step: int) -> None:
        """The optimizer made its `step`-th step."""
        self._step = step
        self.policy.on_step(step)

    def on_metrics(self, metrics: Mapping[str, Any]) -> None:
        """The training was evaluated; what is no finite number is not kept."""
        found = finite_numbers(metrics)
        wanted = self._plan.rule.metric
        if wanted and wanted not in found and not self._missed:
            self._missed = True
            log.warning("the metric to publish by is not there", metric=wanted, found=sorted(found))
        # Several sets of held-out rows may be evaluated one after another.
        self._metrics |= found
        self.policy.on_evaluation(found)

    def on_checkpoint(self) -> None:
        """A checkpoint was written, and its weights are to be published if they are not yet."""
        if self.policy.snapshot().published_step < self._step:
            self.policy.on_request()

    def publish_due(self) -> int:
        """Publishes if something is due; returns the version made, 0 for none.

        Raises what the gate and Publisher.publish raise where `raise_errors` is set.
        """
        reason = None if self._over else self.policy.take_due(self._clock())
        if reason is None:
            return 0
        try:
            return self._publish(reason) if self._may_publish() else 0
        except Exception as error:
            self._note(error)
            self.policy.on_failed(self._clock())
            if self._plan.raise_errors:
                raise
            return 0

    def close(self) -> None:
        """Publishes no more, and lets go of the store."""
        self._over = True
        if self._publisher is not None:
            self._publisher.close()

    def _may_publish(self) -> bool:
        why = "" if self._refusal is None else self._refusal(dict(self._metrics))
        if why:
            self.withheld += 1
            log.info("withheld by the gate", step=self._step, why=why, metrics=self._metrics)
        return not why

    def _publish(self, reason: Reason) -> int:
        version = self._opened().publish(self._module, step=self._step, metrics=self._metrics)
        self.versions += 1
        self.error = ""
        log.info("published", version=version, step=self._step, reason=reason.name.lower())
        return version

    def _opened(self) -> Publisher:
        if self._publisher is None:
            options = {"parent": self._progress.last_version, **self._plan.options}
            self._publisher = Publisher(self._plan.store, self._plan.model, **options)
        return self._publisher

    def _note(self, error: Exception) -> None:
        self.failures += 1
        self.error = str(error)
        known = isinstance(error, HeadraceError)
        # A newer publisher took the model over: this training has no claim to it any more.
        self._over = isinstance(error, FailedPrecondition) and error.reason == "STALE_EPOCH"
        log.warning(
            "not published", why=self.error, over=self._over, exc_info=None if known else error
        )


def finite_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Finite numbers by name, those in tensors of one element too."""
    found = {}
    for name, value in metrics.items():
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            continue
        if math.isfinite(number):
            found[name] = number
    return found
