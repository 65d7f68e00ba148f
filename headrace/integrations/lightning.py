"""A callback of Lightning's Trainer that publishes; needs `headrace[lightning]`.

Decides which of Lightning's hooks means what. Rank zero publishes; the others do nothing, and wait
for it where they next exchange gradients.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl

from headrace.gate import Gate
from headrace.integrations.publishing import Plan, Progress, Publishing
from headrace.model import Model
from headrace.policy.publish_policy import PublishRule
from model_store import Store


class LightningPublisher(pl.Callback):
    """Publishes every `every_steps` optimizer steps, every `every_s` seconds, and each time that
    `metric` improves at a validation, whichever is due; a rule at zero or empty is off. With steps
    or seconds the end of the training publishes too.

    `store`, `model` and `options` are `headrace.Publisher`'s: `LightningPublisher("file:///path",
    "clicks", example_inputs=batch, every_steps=500, part="net")`. `part` names the submodule to
    publish, by default the LightningModule itself. `gate` gets the newest validation metrics by
    name and says whether these weights may be published. A publication that fails is logged,
    counted (`publishing.failures`) and repeated; `raise_errors` lets it end the training.

    A training resumed with `ckpt_path` goes on with the parent, step and best metric of its
    checkpoint. The module must be whole on rank zero: DDP is, FSDP and ZeRO are not.

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
        self.plan.require_rule()
        # None on every rank but the first, and before the training began.
        self.publishing: Publishing | None = None
        self._progress = Progress()

    @property
    def state_key(self) -> str:
        """Keeps the states of two publishers of one training apart."""
        return f"LightningPublisher[{self.plan.name}@{self.plan.options.get('channel', 'stable')}]"

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold, as plain values."""
        return asdict(self._progress if self.publishing is None else self.publishing.progress)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self._progress = Progress(**state_dict)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Step and progress are restored by now."""
        if trainer.is_global_zero:
            self.publishing = Publishing(
                self.plan, pl_module, step=trainer.global_step, progress=self._progress
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_batch: Any
    ) -> None:
        """With accumulated gradients not every batch is a step."""
        if self.publishing is not None:
            self.publishing.on_step(trainer.global_step)
            self.publishing.publish_due()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Metrics of the validation are known."""
        if self.publishing is not None and not trainer.sanity_checking:
            self.publishing.on_step(trainer.global_step)
            self.publishing.on_metrics(trainer.callback_metrics)
            self.publishing.publish_due()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last step was made."""
        if self.publishing is not None:
            self.publishing.policy.on_end()
            self.publishing.publish_due()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Comes after a failure too."""
        if self.publishing is not None:
            self._progress = self.publishing.progress
            self.publishing.close()
