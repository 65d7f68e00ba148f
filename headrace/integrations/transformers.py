"""A callback of Hugging Face's Trainer that publishes; needs `headrace[transformers]`.

Decides which of the Trainer's hooks means what, and that a training's progress lies in the
Trainer's own history, which its checkpoints hold and a resumed training reads back. The first
process publishes; the others do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from headrace.gate import Gate
from headrace.integrations.publishing import Plan, Progress, Publishing, finite_numbers
from headrace.model import Model
from headrace.policy.publish_policy import PublishPolicy, PublishRule
from model_store import Store


class HFTrainerPublisher(TrainerCallback):
    """Publishes every `every_steps` optimizer steps, every `every_s` seconds, each time that
    `metric` improves at an evaluation (by the Trainer's name, such as "eval_loss"), and with
    `on_save` whenever a checkpoint is saved; a rule at zero or empty is off. With steps or seconds
    the end of the training publishes too.

    `store`, `model` and `options` are `headrace.Publisher`'s: `HFTrainerPublisher("file:///path",
    "clicks", inputs=[...], outputs=[...], every_steps=500)`. `part` names the submodule to publish,
    by default the whole model. `gate` gets the newest evaluation metrics by name and says whether
    these weights may be published. A publication that fails is logged, counted
    (`publishing.failures`) and repeated; `raise_errors` lets it end the training.

    A training resumed from a checkpoint goes on with the parent and best metric of its history. The
    model must be whole in the first process: DDP's is, FSDP's and ZeRO's are not.

    Raises InvalidArgument (NO_RULE, BAD_RULE), TypeError for an option that Publisher lacks.
    """

    def __init__(
        self,
        store: str | Store,
        model: str | Model,
        *,
        every_steps: int = 0,
        every_s: float = 0.0,
        metric: str = "",
        minimize: bool = False,
        on_save: bool = False,
        part: str = "",
        gate: Gate | None = None,
        raise_errors: bool = False,
        **options: Any,
    ) -> None:
        self.plan = Plan(
            store=store,
            model=model,
            rule=PublishRule(every_steps, every_s, metric, minimize),
            part=part,
            gate=gate,
            raise_errors=raise_errors,
            options=options,
        )
        self._with_checkpoints = on_save
        if not on_save:
            self.plan.require_rule()
        self._key = f"headrace_version[{self.plan.name}@{options.get('channel', 'stable')}]"
        # None in every process but the first, and before the training began.
        self.publishing: Publishing | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Step and history are restored by now."""
        if state.is_world_process_zero:
            progress = _progress(state.log_history, self._key, self.plan.rule)
            self.publishing = Publishing(
                self.plan, kwargs["model"], step=state.global_step, progress=progress
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """An optimizer step was made; comes before the Trainer evaluates and saves."""
        if self.publishing is not None:
            self.publishing.on_step(state.global_step)
            self._publish_due(state)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Also comes after an evaluation outside of a training, which publishes nothing."""
        if self.publishing is not None:
            self.publishing.on_metrics(metrics or {})
            self._publish_due(state)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The checkpoint is written: what is published now is in the history of the next one."""
        if self.publishing is not None and self._with_checkpoints:
            self.publishing.on_checkpoint()
            self._publish_due(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The last step was made."""
        if self.publishing is not None:
            self.publishing.policy.on_end()
            self._publish_due(state)
            self.publishing.close()

    def _publish_due(self, state: TrainerState) -> None:
        assert self.publishing is not None
        version = self.publishing.publish_due()
        if version:
            state.log_history.append({"step": state.global_step, self._key: version})


def _progress(history: Sequence[Mapping[str, Any]], key: str, rule: PublishRule) -> Progress:
    """What the history of a training tells of its publications and its best metric."""
    policy = PublishPolicy(rule, now=0.0)
    version, step = 0, None
    for entry in history:
        if key in entry:
            version, step = int(entry[key]), int(entry["step"])
        policy.on_evaluation(finite_numbers(entry))
    return Progress(version, step, policy.snapshot().best)
