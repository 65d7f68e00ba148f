"""ModelStatistics as perf_analyzer reads it."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tests.conformance.target import refused, tensor

pytestmark = pytest.mark.system


def counted(client, model="identity-int8"):
    (found,) = client.get_inference_statistics(model, "1").model_stats
    return found


def test_counters_grow_by_what_was_asked(client):
    x = np.ones((3, 4), np.int8)
    client.infer("identity-int8", [tensor("x", x, "INT8")])
    before = counted(client)
    for _ in range(5):
        client.infer("identity-int8", [tensor("x", x, "INT8")])
    after = counted(client)
    assert (after.name, after.version) == ("identity-int8", "1")
    assert after.inference_count - before.inference_count == 15
    assert 1 <= after.execution_count - before.execution_count <= 5
    then, now = before.inference_stats, after.inference_stats
    assert now.success.count - then.success.count == 5
    for part in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert getattr(now, part).count > getattr(then, part).count, part
        assert getattr(now, part).ns >= getattr(then, part).ns, part
    assert now.compute_infer.ns > then.compute_infer.ns


def test_all_models_are_told_at_once(client):
    for datatype, kind in (("INT8", np.int8), ("FP64", np.float64)):
        content = tensor("x", np.ones((1, 4), kind), datatype)
        client.infer(f"identity-{datatype.lower()}", [content])
    names = {found.name for found in client.get_inference_statistics().model_stats}
    assert {"identity-int8", "identity-fp64"} <= names


def test_an_unknown_model_has_no_statistics(target):
    asked = service_pb2.ModelStatisticsRequest(name="nowhere")
    with target.stub() as stub, refused("NOT_FOUND", "MODEL_NOT_FOUND"):
        stub.ModelStatistics(asked)
