"""What a load may ask for: pin, follow, a channel; everything else is refused by its name."""

from __future__ import annotations

import json

import pytest

from chassis.errors import InvalidArgument, Unimplemented
from chassis.repository import Load, load_of, unload_of
from protos.inference import grpc_service_pb2 as oip


def request(
    config: object = None, model: str = "m", **files: bytes
) -> oip.RepositoryModelLoadRequest:
    made = oip.RepositoryModelLoadRequest(model_name=model)
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        made.parameters["config"].string_param = text
    for name, content in files.items():
        made.parameters[f"file:{name}"].bytes_param = content
    return made


def specific(*versions: object) -> dict[str, object]:
    return {"version_policy": {"specific": {"versions": list(versions)}}}


@pytest.mark.parametrize(
    ("config", "load"),
    [
        (None, Load("m")),
        ({}, Load("m")),
        (specific(7), Load("m", 7)),
        (specific("7"), Load("m", 7)),
        ({"version_policy": {"latest": {}}}, Load("m")),
        ({"version_policy": {"latest": {"num_versions": 1}}}, Load("m")),
        ({"parameters": {"channel": {"string_value": "canary"}}}, Load("m", 0, "canary")),
        (
            {**specific(3), "parameters": {"channel": {"string_value": "canary"}}},
            Load("m", 3, "canary"),
        ),
    ],
)
def test_what_a_load_asks_for(config, load):
    assert load_of(request(config)) == load


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "is not JSON"),
        ("[" * 60_000, "is not JSON"),
        ("1" * 5_000, "is not JSON"),
        (" " * 65_537, "has 65537 characters; at most 65536"),
        ("[]", "the config override must be a JSON object"),
        ({"backend": "onnx"}, "'backend' cannot be overridden; what can: {\"version_policy\""),
        ({"max_batch_size": 4}, "'max_batch_size' cannot be overridden: it belongs to the"),
        ({"version_policy": 3}, "version_policy must be a JSON object"),
        ({"version_policy": {}}, "either 'specific' or 'latest'"),
        ({"version_policy": {"all": {}}}, "'version_policy.all' cannot be overridden"),
        ({"version_policy": {"latest": {"num_versions": 2}}}, "num_versions must be 1"),
        ({"version_policy": {"latest": {"n": 2}}}, "'version_policy.latest.n' cannot"),
        (specific(), "exactly one version, because a model is served in one at a time; it names 0"),
        (specific(1, 2), "it names 2"),
        ({"version_policy": {"specific": {"versions": 7}}}, "exactly one version"),
        (specific(0), "a positive integer"),
        (specific(-1), "a positive integer"),
        (specific(True), "a positive integer"),
        (specific(1.5), "a positive integer"),
        (specific("v1"), "a positive integer"),
        (specific("9" * 30), "a positive integer"),
        ({"parameters": {"chanel": {"string_value": "x"}}}, "'parameters.chanel' cannot"),
        ({"parameters": {"channel": "x"}}, "parameters.channel must be a JSON object"),
        ({"parameters": {"channel": {"string_value": 3}}}, "must be the name of a channel"),
        ({"parameters": {"channel": {"string_value": "../x"}}}, "channel '../x' is not a valid"),
    ],
)
def test_what_is_refused_is_named(config, words):
    with pytest.raises(InvalidArgument) as caught:
        load_of(request(config))
    assert words in caught.value.message
    assert (caught.value.reason, caught.value.field) == ("BAD_CONFIG", "parameters[config]")


def test_weights_do_not_come_by_rpc():
    with pytest.raises(InvalidArgument, match="weights come from the model store") as caught:
        load_of(request({}, **{"1/model.pt": b"x"}))
    assert (caught.value.reason, caught.value.field) == (
        "FILES_REFUSED",
        "parameters[file:1/model.pt]",
    )


def test_other_parameters_names_and_repositories_are_refused():
    made = request()
    made.parameters["speed"].int64_param = 3
    with pytest.raises(InvalidArgument, match="parameter 'speed' is unknown; expected 'config'"):
        load_of(made)
    made = request()
    made.parameters["config"].bytes_param = b"{}"
    with pytest.raises(InvalidArgument, match="must be a string of JSON"):
        load_of(made)
    for name in ("", "../m", "m" * 200):
        with pytest.raises(InvalidArgument) as caught:
            load_of(request(model=name))
        assert (caught.value.reason, caught.value.field) == ("BAD_NAME", "model_name")
    made = request()
    made.repository_name = "/models"
    with pytest.raises(Unimplemented, match="leave repository_name empty"):
        load_of(made)


def test_an_unload_names_a_model_and_its_dependents():
    made = oip.RepositoryModelUnloadRequest(model_name="m")
    assert unload_of(made) == "m"
    made.parameters["unload_dependents"].bool_param = True
    assert unload_of(made) == "m"
    made.parameters["unload_dependents"].string_param = "yes"
    with pytest.raises(InvalidArgument, match="must be true or false"):
        unload_of(made)
    made = oip.RepositoryModelUnloadRequest(model_name="m")
    made.parameters["force"].bool_param = True
    with pytest.raises(InvalidArgument, match="'force' is unknown; expected 'unload_dependents'"):
        unload_of(made)
