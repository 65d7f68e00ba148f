"""Settings of single models: where they come from, what they change, what is refused at start."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from chassis.errors import InvalidArgument
from inference_service.settings import ModelSettings, ReplicaSettings
from model_store import Store
from tests.inference_service.line import Line, expected
from tests.inference_service.served_replica import ServedReplica

PER_MODEL = {"fraud": {"precision": "bf16", "slots": 1}}


def loaded(tmp_path, per_model: object, **settings: object) -> ReplicaSettings:
    file = tmp_path / "settings.yaml"
    section = {"store": "memory://x", "models": "clicks,fraud@canary", "per_model": per_model}
    file.write_text(json.dumps({"replica": section | settings}))
    return ReplicaSettings.load(file)


def refusal(tmp_path, per_model: object) -> str:
    with pytest.raises(InvalidArgument) as caught:
        loaded(tmp_path, per_model).followed()
    assert caught.value.reason == "BAD_SETTING"
    return caught.value.message


def test_what_is_left_out_is_the_replicas(tmp_path):
    settings = loaded(tmp_path, PER_MODEL, engine="compiled", cuda_graphs=True)
    assert settings.of_model("clicks") == ModelSettings(
        engine="compiled", precision="published", slots=2, cuda_graphs=True
    )
    assert settings.of_model("fraud") == ModelSettings(
        engine="compiled", precision="bf16", slots=1, cuda_graphs=True
    )
    # Loaded by RPC later on.
    assert settings.of_model("other") == settings.of_model("clicks")


def test_a_model_may_be_the_exception_from_what_is_on(tmp_path):
    settings = loaded(
        tmp_path,
        {"fraud": {"cuda_graphs": False, "slots": 2}},
        cuda_graphs=True,
        slots=1,
        auto_precisions="fp16,bf16",
    )
    fraud = settings.of_model("fraud")
    assert (fraud.cuda_graphs, fraud.slots) == (False, 2)
    assert settings.precisions("fraud") == ("published", "fp16", "bf16")


@pytest.mark.parametrize(
    "variables",
    [
        {"HEADRACE_REPLICA_PER_MODEL": json.dumps(PER_MODEL)},
        {
            "HEADRACE_REPLICA_PER_MODEL__FRAUD__PRECISION": "bf16",
            "HEADRACE_REPLICA_PER_MODEL__FRAUD__SLOTS": "1",
        },
    ],
)
def test_the_environment_names_them_too(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    given = {"store": "memory://x", "models": "clicks,fraud"}
    settings = ReplicaSettings.load(overrides=given)
    assert settings.of_model("fraud").precision == "bf16"
    assert settings.of_model("fraud").slots == 1
    by_flag = ReplicaSettings.load(overrides=given | {"per_model": '{"clicks": {"slots": 1}}'})
    assert by_flag.of_model("clicks").slots == 1


def test_what_is_wrong_is_named(tmp_path):
    assert refusal(tmp_path, {"fruad": {"slots": 1}}) == (
        "setting replica.per_model: model 'fruad' is none of replica.models; did you mean fraud?"
    )
    assert refusal(tmp_path, {"fraud": {"precison": "bf16"}}).startswith(
        "setting replica.per_model.fraud: Value error, 'precison' is unknown; did you mean "
        "precision?"
    )
    assert refusal(tmp_path, {"fraud": {"precision": "fp8"}}).startswith(
        "setting replica.per_model.fraud.precision: Input should be 'published', 'fp32', "
    )
    assert "got 3" in refusal(tmp_path, {"fraud": {"slots": 3}})
    assert "setting replica.per_model.fraud" in refusal(tmp_path, {"fraud": "bf16"})
    assert "expected a JSON object such as" in refusal(tmp_path, "fraud=bf16")


def serving(replica: ServedReplica, version: int, _status: object) -> bool:
    models = replica.replica.models.values()
    return all(served.snapshot().serving_version == version for served in models)


async def test_two_models_of_a_replica_are_computed_differently(store: Store, store_url: str):
    lines = {name: Line(store, model=name) for name in ("clicks", "fraud")}
    for line in lines.values():
        line.publish(1.0)
    x = np.ones((2, 4), np.float32)
    per_model = PER_MODEL | {"clicks": {"cuda_graphs": True}}
    async with ServedReplica(store_url, models="clicks,fraud", per_model=per_model) as replica:
        await replica.wait_ready()
        for weight in (2.0, 3.0):
            for line in lines.values():
                line.publish(weight)
            await replica.wait(partial(serving, replica, int(weight)))
            for name in lines:
                np.testing.assert_array_equal(
                    (await replica.infer(x, model=name))[1], expected(weight, x)
                )
        models = {model.model: model for model in (await replica.status()).models}
        assert {name: len(model.slots) for name, model in models.items()} == {
            "clicks": 2,
            "fraud": 1,
        }
        assert models["clicks"].engine.precision == "published"
        assert models["fraud"].engine.precision == "bf16"
        assert models["clicks"].engine.graphs.why_not == "device cpu records none"
        assert not models["fraud"].engine.HasField("graphs")
