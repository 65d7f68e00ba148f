"""What a gate lets through, and what is left of weights that it does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from chassis.errors import InvalidArgument
from headrace import Publisher
from headrace.gate import refusal_of
from headrace.integrations.publishing import Plan
from headrace.policy.publish_policy import PublishRule
from model_store.open import open_store

X = torch.zeros(2, 3)


@pytest.fixture
def store(tmp_path):
    with open_store(f"file://{tmp_path}/store") as opened:
        yield opened


def test_weights_that_fail_their_gate_become_no_version(store):
    gate = {"accuracy": ">=0.9", "loss": "<0.5"}
    with Publisher(store, "m", example_inputs=X, channel="canary", gate=gate) as publisher:
        module = nn.Linear(3, 1)
        assert publisher.publish(module, metrics={"accuracy": 0.89, "loss": 0.1}) == 0
        assert publisher.publish(module, metrics={"accuracy": 0.95}) == 0
        assert publisher.publish(module) == 0
        assert (publisher.withheld, publisher.last_version) == (3, 0)
        assert store.models() == [] and list(store.blobs()) == []
        assert publisher.publish(module, metrics={"accuracy": np.float32(0.9), "loss": 0.1}) == 0
        assert publisher.publish(module, metrics={"accuracy": 0.9, "loss": torch.tensor(0.1)}) == 1
    assert store.channel("m", "canary").version == 1


def test_a_function_may_be_the_gate(store):
    with Publisher(store, "m", example_inputs=X, gate=lambda told: "auc" in told) as publisher:
        assert publisher.publish(nn.Linear(3, 1)) == 0
        assert publisher.publish(nn.Linear(3, 1), metrics={"auc": 0.1}) == 1


def test_a_refusal_says_why():
    refusal = refusal_of({"auc": " > 0.5", "loss": "<=1e-2"})
    assert refusal({"auc": 0.6, "loss": 0.01}) == ""
    assert refusal({"auc": 0.5}) == "auc is 0.5, not > 0.5; loss is missing, not <= 0.01"
    assert refusal({"auc": float("nan"), "loss": 0}) == "auc is nan, not > 0.5"


@pytest.mark.parametrize("bound", ["0.9", "=0.9", ">=x", ">=.", 0.9, ">=0.9 or so"])
def test_a_bound_that_means_nothing_is_refused_before_anything_is_trained(store, bound):
    with pytest.raises(InvalidArgument, match="expected one such as '>=0.9'") as caught:
        Publisher(store, "m", gate={"accuracy": bound})
    assert caught.value.reason == "BAD_GATE"
    with pytest.raises(InvalidArgument):
        Plan(store=store, model="m", rule=PublishRule(), gate={"accuracy": bound}, options={})


def test_an_empty_gate_is_refused():
    with pytest.raises(InvalidArgument, match="the gate is empty"):
        refusal_of({})
