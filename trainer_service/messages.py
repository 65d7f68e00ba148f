"""Between headrace.v1's trainer messages and the service's own records."""

from __future__ import annotations

import re

from chassis.errors import InvalidArgument
from headrace.policy.publish_policy import PublishRule
from protos.headrace.v1 import trainer_pb2
from trainer_service.record import RunRecord
from trainer_service.spec import DEFAULT_CHECKPOINT_STEPS, DEFAULT_EVALUATE_STEPS, RunSpec

_CREDENTIALS = re.compile("(?<=://)[^/@]*@")


def spec_from(message: trainer_pb2.RunSpec) -> RunSpec:
    """The specification, with a default where a field is zero or empty.

    Raises InvalidArgument (BAD_SPEC) where model or store is missing.
    """
    for name in ("model", "store"):
        if not getattr(message, name):
            raise InvalidArgument("BAD_SPEC", f"spec.{name} is missing", field=f"spec.{name}")
    rule = message.publish
    return RunSpec(
        model=message.model,
        store=message.store,
        publish_as=message.publish_as,
        channel=message.channel or "stable",
        processes=message.processes or 1,
        max_steps=message.max_steps,
        checkpoint_every_steps=message.checkpoint_every_steps or DEFAULT_CHECKPOINT_STEPS,
        evaluate_every_steps=message.evaluate_every_steps or DEFAULT_EVALUATE_STEPS,
        publish=PublishRule(rule.every_steps, rule.every_s, rule.metric, rule.minimize),
        seed=message.seed,
        max_steps_per_s=message.max_steps_per_s,
    )


def spec_message(spec: RunSpec) -> trainer_pb2.RunSpec:
    """The specification as a message; a password in the store's URL stays inside."""
    values = spec.as_json() | {"store": _CREDENTIALS.sub("", spec.store)}
    return trainer_pb2.RunSpec(
        **{**values, "publish": trainer_pb2.PublishPolicy(**values["publish"])}
    )


def run_message(record: RunRecord) -> trainer_pb2.Run:
    """The record as a message."""
    values = record.as_json()
    del values["create_time_ms"]
    state = trainer_pb2.RunState.Value(f"RUN_STATE_{values['state']}")
    return trainer_pb2.Run(**{**values, "spec": spec_message(record.spec), "state": state})
