"""What a server tells of itself and of its models: live, ready, metadata, config, statistics."""

from __future__ import annotations

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from tests.conformance.models import all_models
from tests.conformance.target import refused

# Those of Triton's server; CUDA shared memory only where CUDA is, priorities only at a gateway.
EXTENSIONS = (
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "model_configuration",
    "system_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)

pytestmark = pytest.mark.system

MODELS = [pytest.param(model, id=model.name) for model in all_models()]


def test_live_and_ready(client):
    assert client.is_server_live()
    assert client.is_server_ready()


@pytest.mark.parametrize(
    ("model", "version", "ready"),
    [
        ("mix", "", True),
        ("mix", "1", True),
        ("mix", "99", False),
        ("nowhere", "", False),
    ],
)
def test_model_ready(client, model, version, ready):
    assert client.is_model_ready(model, version) is ready


def test_server_metadata(client):
    metadata = client.get_server_metadata()
    assert metadata.name.startswith("headrace")
    assert metadata.version
    assert set(EXTENSIONS) <= set(metadata.extensions)


@pytest.mark.parametrize("model", MODELS)
def test_metadata_has_the_batch_dimension_and_config_has_not(client, model):
    metadata = client.get_model_metadata(model.name)
    config = client.get_model_config(model.name).config
    assert (metadata.name, list(metadata.versions)) == (model.name, ["1"])
    assert config.max_batch_size == model.max_batch_size
    leading = 1 if model.max_batch_size else 0
    sides = (
        (model.inputs, metadata.inputs, config.input),
        (model.outputs, metadata.outputs, config.output),
    )
    for specs, described, configured in sides:
        expected = [(spec.name, spec.datatype, list(spec.shape)) for spec in specs]
        assert [(item.name, item.datatype, list(item.shape)) for item in described] == expected
        types = [model_config_pb2.DataType.Name(item.data_type) for item in configured]
        assert types == [f"TYPE_{spec.datatype}".replace("BYTES", "STRING") for spec in specs]
        assert [list(item.dims) for item in configured] == [
            list(spec.shape[leading:]) for spec in specs
        ]


def test_a_version_is_described_by_its_number(client):
    assert client.get_model_metadata("mix", "1").name == "mix"
    assert client.get_model_config("mix", "1").config.name == "mix"


@pytest.mark.parametrize(
    ("name", "version", "code", "reason"),
    [
        ("nowhere", "", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("", "", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("../mix", "", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("mix", "99", "NOT_FOUND", "VERSION_NOT_FOUND"),
        ("mix", "01", "INVALID_ARGUMENT", "BAD_VERSION"),
        ("mix", "-1", "INVALID_ARGUMENT", "BAD_VERSION"),
    ],
)
@pytest.mark.parametrize("kind", ["ModelMetadata", "ModelConfig"])
def test_what_is_not_there_is_named(target, kind, name, version, code, reason):
    asked = getattr(service_pb2, f"{kind}Request")(name=name, version=version)
    with target.stub() as stub, refused(code, reason):
        getattr(stub, kind)(asked)
