"""Repository, trace and log RPCs where control is allowed, as Triton's client calls them."""

from __future__ import annotations

import grpc
import pytest
from tritonclient.grpc import service_pb2

from tests.conformance.models import all_models
from tests.conformance.target import refusal_of

pytestmark = pytest.mark.system


def test_the_index_lists_every_model_and_its_state(client):
    index = client.get_model_repository_index()
    found = {model.name: (model.version, model.state) for model in index.models}
    assert found == {model.name: ("1", "READY") for model in all_models()}


def test_a_loaded_model_may_be_loaded_again(client):
    client.load_model("classes")
    assert client.is_model_ready("classes")


@pytest.mark.parametrize("rpc", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_a_model_that_is_not_there_is_named(target, rpc):
    asked = getattr(service_pb2, f"{rpc}Request")(model_name="nowhere")
    with target.stub() as stub, pytest.raises(grpc.RpcError) as caught:
        getattr(stub, rpc)(asked)
    assert refusal_of(caught.value).code in ("NOT_FOUND", "FAILED_PRECONDITION")


def test_trace_settings_are_told_and_changed(client):
    before = client.get_trace_settings("mix", as_json=True)["settings"]
    assert "trace_level" in before
    changed = client.update_trace_settings("mix", {"trace_rate": "7"}, as_json=True)["settings"]
    assert changed["trace_rate"]["value"] == ["7"]
    client.update_trace_settings("mix", {"trace_rate": None})


def test_log_settings_are_told_and_changed(client):
    assert "log_info" in client.get_log_settings(as_json=True)["settings"]
    changed = client.update_log_settings({"log_verbose_level": 1}, as_json=True)["settings"]
    assert changed["log_verbose_level"]["uint32_param"] == 1
    client.update_log_settings({"log_verbose_level": 0})
