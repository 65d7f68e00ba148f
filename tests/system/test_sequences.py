"""Sequences of a model with states through the whole stack, by Triton's own client."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from chassis.connections import open_channel
from chassis.edge import Stub
from headrace import Publisher
from protos.headrace.v1 import gateway_pb2, replica_pb2
from tests.inference_service.sequence_models import RunningSum, RunningSumModel
from tests.system.stack import Stack, wait_until

pytestmark = pytest.mark.system


@pytest.fixture
def publisher(tmp_path):
    with Publisher(f"file://{tmp_path}/store", RunningSumModel()) as opened:
        opened.publish(RunningSum(1.0))
        yield opened


@pytest.fixture
def stack(tmp_path, publisher):
    started = Stack(tmp_path, f"file://{tmp_path}/store", "running")
    try:
        yield started.start()
    finally:
        started.stop()


@pytest.fixture
def client(stack):
    with triton.InferenceServerClient(stack.gateway.address) as opened:
        wait_until(lambda: healthy(stack) == 2, within_s=30, what="two replicas serve")
        yield opened


def healthy(stack: Stack) -> int:
    """Endpoints that the gateway sends batches to."""
    with open_channel(f"127.0.0.1:{stack.gateway.serving['admin_port']}") as channel:
        admin = Stub(channel, "headrace.v1.GatewayAdmin")
        status = admin.GetStatus(gateway_pb2.GatewayGetStatusRequest())
    return sum(each.state == gateway_pb2.ENDPOINT_STATE_HEALTHY for each in status.endpoints)


def serving(stack: Stack) -> set[int]:
    """The versions that new requests get."""
    found = set()
    for replica in stack.replicas:
        with open_channel(replica.address) as channel:
            own = Stub(channel, "headrace.v1.Replica")
            status = own.GetStatus(replica_pb2.ReplicaGetStatusRequest())
            found.add(status.models[0].serving_version)
    return found


def add(client, value: float, sequence: int | str, **flags) -> tuple[float, str]:
    """Adds to a running sum; the sum, and the version that computed it."""
    x = triton.InferInput("x", [1, 2], "FP32")
    x.set_data_from_numpy(np.full((1, 2), value, np.float32))
    result = client.infer("running", [x], sequence_id=sequence, **flags)
    return float(result.as_numpy("sum")[0, 0]), result.get_response().model_version


def test_sequences_carry_their_sums_on_one_version_through_publications(client, stack, publisher):
    config = client.get_model_config("running").config
    assert [state.input_name for state in config.sequence_batching.state] == ["total", "count"]
    ids = [1, "1", 2, "two"]
    for number, sequence in enumerate(ids):
        assert add(client, number, sequence, sequence_start=True) == (number, "1")
    publisher.publish(RunningSum(2.0))
    wait_until(lambda: serving(stack) == {2}, within_s=30, what="version 2 serves")
    for turn in range(1, 6):
        for number, sequence in enumerate(ids):
            answer = add(client, 10 * turn, sequence, sequence_end=turn == 5)
            assert answer == (number + 10 * sum(range(1, turn + 1)), "1")
    assert add(client, 3, 1, sequence_start=True) == (6, "2")
    with pytest.raises(InferenceServerException, match="carries states"):
        x = triton.InferInput("x", [1, 2], "FP32")
        x.set_data_from_numpy(np.zeros((1, 2), np.float32))
        client.infer("running", [x])


def test_kill_9_of_a_replica_loses_its_sequences_and_no_others(client, stack):
    ids = range(1, 7)
    for sequence in ids:
        add(client, sequence, sequence, sequence_start=True)
    stack.replicas[0].kill()
    answered, lost = [], []
    for sequence in ids:
        try:
            assert add(client, 10, sequence)[0] == sequence + 10
            answered.append(sequence)
        except InferenceServerException as error:
            assert error.status() == str(grpc.StatusCode.FAILED_PRECONDITION)
            assert "start it anew" in error.message()
            lost.append(sequence)
    assert answered and lost
    for sequence in lost:
        assert add(client, 5, sequence, sequence_start=True)[0] == 5
        assert add(client, 5, sequence)[0] == 10
