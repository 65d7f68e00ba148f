"""Loading, pinning and unloading across a fleet, through a real gateway over real replicas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from chassis.connections import open_channel
from chassis.edge import Stub
from gateway.admin import SERVICE as ADMIN
from model_store import open_store
from protos.headrace.v1 import gateway_pb2 as admin
from tests.inference_service.line import Line
from tests.system.stack import Stack, wait_until

X = np.arange(8, dtype=np.float32).reshape(2, 4)
CONTROLLED = {"allow_control": "true", "poll_s": 0.2}


def pin(version: int) -> str:
    return json.dumps({"version_policy": {"specific": {"versions": [version]}}})


def version(client: triton.InferenceServerClient, model: str) -> int:
    """The version that answers."""
    given = triton.InferInput("x", list(X.shape), "FP32")
    given.set_data_from_numpy(X)
    return int(client.infer(model, [given]).get_response().model_version)


class Fleet:
    """A gateway over two replicas that serve "affine", and Triton's clients of both its ports."""

    def __init__(self, directory: Path, replica: dict[str, object]) -> None:
        self.store = open_store(f"file://{directory}/store")
        self.line = Line(self.store)
        self.line.publish(1.0)
        self.stack = Stack(directory, self.store.url, "affine", replica)
        try:
            self.stack.start(2)
            port = self.stack.gateway.serving["admin_port"]
            self.channel = open_channel(f"127.0.0.1:{port}")
            self.status = Stub(self.channel, ADMIN).GetStatus
            self.wait_healthy()
        except BaseException:
            self.stack.stop()
            raise
        self.data = triton.InferenceServerClient(self.stack.gateway.address)
        self.admin = triton.InferenceServerClient(f"127.0.0.1:{port}")

    def version(self, model: str = "affine") -> int:
        return version(self.data, model)

    def versions(self, model: str = "affine") -> set[int]:
        """The versions that answer many requests at once, which meet every replica."""
        with ThreadPoolExecutor(8) as threads:
            return set(threads.map(self.version, [model] * 32))

    def each(self, model: str = "affine") -> list[int]:
        """The version that each replica answers with, asked by itself."""
        found = []
        for replica in self.stack.replicas:
            with triton.InferenceServerClient(replica.address) as client:
                found.append(version(client, model))
        return found

    def index(self) -> dict[tuple[str, str], tuple[str, str]]:
        reply = self.admin.get_model_repository_index()
        return {(m.name, m.version): (m.state, m.reason) for m in reply.models}

    def index_of(self, at: int) -> dict[tuple[str, str], tuple[str, str]]:
        with triton.InferenceServerClient(self.stack.replicas[at].address) as client:
            reply = client.get_model_repository_index()
        return {(m.name, m.version): (m.state, m.reason) for m in reply.models}

    def wait_healthy(self) -> None:
        """Waits until the gateway uses both replicas."""

        def healthy() -> bool:
            endpoints = self.status(admin.GatewayGetStatusRequest()).endpoints
            return [each.state for each in endpoints] == [admin.ENDPOINT_STATE_HEALTHY] * 2

        wait_until(healthy, within_s=60, what="both replicas are healthy")

    def stop(self) -> None:
        self.data.close()
        self.admin.close()
        self.channel.close()
        assert self.stack.stop() == [0, 0, 0]
        self.store.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), CONTROLLED)
    yield fleet
    fleet.stop()


def refusal(call, *arguments: object, **named: object) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **named)
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def infer_refused(fleet: Fleet, model: str = "affine") -> str:
    return refusal(fleet.version, model)[0]


def test_a_fleet_is_pinned_unloaded_and_follows_through_the_loss_of_a_replica(tmp_path):
    fleet = Fleet(tmp_path, CONTROLLED)
    try:
        fleet.line.publish(2.0)
        wait_until(lambda: fleet.versions() == {2}, within_s=30, what="version 2 is followed")
        fleet.admin.load_model("affine", config=pin(1))
        assert fleet.each() == [1, 1]
        second = fleet.stack.replicas[1]
        second.kill()
        wait_until(lambda: fleet.versions() == {1}, within_s=30, what="the other one answers")
        second.start()
        seen: set[int] = set()

        def returned() -> bool:
            seen.update(fleet.versions())
            ready = fleet.index_of(1)["affine", "1"] == ("READY", "")
            return ready and fleet.each() == [1, 1]

        wait_until(returned, within_s=60, what="the replica that returned is pinned too")
        assert seen == {1}, "it was not used before it was"

        fleet.admin.unload_model("affine")
        assert infer_refused(fleet) == "NOT_FOUND"
        assert not fleet.data.is_model_ready("affine")
        assert fleet.index()["affine", "1"] == ("UNAVAILABLE", "unloaded")
        second.kill()
        second.start()

        def unloaded() -> bool:
            assert infer_refused(fleet) == "NOT_FOUND"
            return fleet.index_of(1).get(("affine", "2")) == ("UNAVAILABLE", "unloaded")

        wait_until(unloaded, within_s=60, what="the replica that returned unloads it too")
        fleet.admin.load_model("affine")
        assert fleet.version() == 2, "its caller finds it at once"
        wait_until(
            lambda: fleet.index()["affine", "2"] == ("READY", ""), within_s=30, what="all have it"
        )
    finally:
        fleet.stop()


def test_a_model_of_the_store_is_loaded_everywhere_and_found_at_once(shared):
    Line(shared.store, "other").publish(5.0)
    assert infer_refused(shared, "other") == "NOT_FOUND"
    assert shared.index()["other", "1"] == ("UNAVAILABLE", "not loaded")
    shared.admin.load_model("other")
    assert shared.versions("other") == {1}
    assert shared.each("other") == [1, 1]
    assert shared.index()["other", "1"] == ("READY", "")
    shared.admin.unload_model("other", unload_dependents=True)
    shared.admin.unload_model("other")
    assert infer_refused(shared, "other") == "NOT_FOUND"
    assert shared.index_of(0)["other", "1"] == ("UNAVAILABLE", "unloaded")


def test_errors_of_the_fleet_name_no_replica(shared):
    code, sentence = refusal(shared.admin.load_model, "affine", config=pin(99))
    assert code == "NOT_FOUND"
    assert sentence.startswith("0 of 2 replicas loaded model 'affine', 2 did not: version 99 of")
    assert not any(replica.address in sentence for replica in shared.stack.replicas)
    assert shared.versions() == {1}
    assert refusal(shared.admin.load_model, "nothing")[0] == "NOT_FOUND"
    assert refusal(shared.admin.unload_model, "nothing")[0] == "NOT_FOUND"
    for config in ('{"backend": "onnx"}', '{"max_batch_size": 2}', "{"):
        assert refusal(shared.admin.load_model, "affine", config=config)[0] == "INVALID_ARGUMENT"
    files = {"file:1/model.pt": b"x"}
    code, sentence = refusal(shared.admin.load_model, "affine", config="{}", files=files)
    assert (code, "weights come from the model store" in sentence) == ("INVALID_ARGUMENT", True)


def test_the_data_port_lists_and_loads_nothing(shared):
    reply = shared.data.get_model_repository_index(as_json=True)
    assert {"name": "affine", "version": "1", "state": "READY"} in reply["models"]
    assert refusal(shared.data.load_model, "affine")[0] == "PERMISSION_DENIED"
    assert refusal(shared.data.unload_model, "affine")[0] == "PERMISSION_DENIED"
    assert shared.version() == 1


def test_replicas_that_grant_no_control_are_told_apart_from_callers(tmp_path):
    fleet = Fleet(tmp_path, {})
    try:
        code, sentence = refusal(fleet.admin.unload_model, "affine")
        assert code == "FAILED_PRECONDITION"
        assert "set replica.allow_control" in sentence
        assert fleet.versions() == {1}
    finally:
        fleet.stop()
