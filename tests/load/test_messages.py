"""Requests as bytes: joined parts are one message, with arrays that fit the model."""

import numpy as np
import pytest

from chassis.errors import InvalidArgument
from chassis.infer import infer_reply
from chassis.tensors import NUMPY_TYPES, TensorSpec, decode_raw
from headrace.load.arrivals import Arrivals
from headrace.load.job import Job, content_of, jobs_of
from headrace.load.messages import MOST_BYTES, bodies_of, id_field, sender_fields, timeout_field
from headrace.load.mix import Mix, Tenant, TrafficClass
from headrace.load.plan import LoadPlan
from headrace.load.target import Target, target_of
from headrace.load.transport import version_in
from protos.inference import grpc_service_pb2 as oip
from protos.inference import model_config_pb2 as config_pb2

ROWS = Target((TensorSpec("x", "FP32", (-1, 4)), TensorSpec("ids", "INT64", (-1, -1))), True, 8)
FLAT = Target((TensorSpec("x", "FP32", (3,)),), False, 0)


def plan(**changes):
    given = {"address": "h:1", "model": "m", "arrivals": Arrivals.at_rate(1, 1), **changes}
    return LoadPlan(**given)


def parsed(message):
    return oip.ModelInferRequest.FromString(message)


def arrays(message):
    return [
        decode_raw(raw, tensor.datatype, tensor.shape, name=tensor.name)
        for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True)
    ]


def test_joined_parts_are_one_message():
    told = plan(version="7", rows=(2, 3), shapes={"ids": (5,)})
    bodies = bodies_of(told, ROWS)
    fields = sender_fields(TrafficClass("gold", priority=2), Tenant("acme"))
    message = parsed(bodies.body(3, 9) + fields + id_field("abc") + timeout_field(0.25))
    assert (message.model_name, message.model_version, message.id) == ("m", "7", "abc")
    assert message.parameters["priority"].uint64_param == 2
    assert message.parameters["tenant"].string_param == "acme"
    assert message.parameters["timeout"].int64_param == 250_000
    assert [list(tensor.shape) for tensor in message.inputs] == [[3, 4], [3, 5]]
    assert [array.shape for array in arrays(message)] == [(3, 4), (3, 5)]


def test_a_tenant_with_a_token_needs_no_parameter():
    assert sender_fields(TrafficClass(), Tenant("acme", token="t")) == b""


def test_contents_differ_and_repeat_with_the_seed():
    told = plan(rows=(1, 1), shapes={"ids": (5,)})
    bodies, again = bodies_of(told, ROWS), bodies_of(told, ROWS)
    assert len(set(bodies.of_rows[1])) == len(bodies.of_rows[1]) == 64
    assert bodies.of_rows == again.of_rows
    assert bodies_of(plan(seed=1, shapes={"ids": (5,)}), ROWS).of_rows != bodies.of_rows


@pytest.mark.parametrize("datatype", sorted(NUMPY_TYPES))
def test_every_datatype_can_be_random(datatype):
    target = Target((TensorSpec("x", datatype, (-1, 3)),), True, 0)
    [array] = arrays(parsed(bodies_of(plan(rows=(2, 2)), target).body(2, 0)))
    assert array.shape == (2, 3)
    if datatype == "BYTES":
        assert all(len(word) == 8 for word in array.reshape(-1))


def test_large_contents_are_few():
    target = Target((TensorSpec("x", "FP32", (-1, 1024 * 1024)),), True, 0)
    some = bodies_of(plan(), target).of_rows[1]
    assert 1 < len(some) < 64 and sum(map(len, some)) <= MOST_BYTES


def test_given_rows_are_taken_in_turn():
    given = {"x": np.arange(12).reshape(3, 4), "ids": np.array([[1], [2], [3]])}
    bodies = bodies_of(plan(inputs=given, rows=(2, 2)), ROWS)
    x, ids = arrays(parsed(bodies.body(2, 1)))
    assert x.dtype == np.float32 and x.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert ids.tolist() == [[3], [1]]


def test_one_given_row_may_leave_out_the_batch():
    bodies = bodies_of(plan(inputs={"x": [1, 2, 3, 4], "ids": [9]}), ROWS)
    x, ids = arrays(parsed(bodies.body(1, 0)))
    assert x.tolist() == [[1, 2, 3, 4]] and ids.tolist() == [[9]]


def test_a_model_without_a_batch_takes_arrays_as_they_are():
    [x] = arrays(parsed(bodies_of(plan(inputs={"x": [1, 2, 3]}), FLAT).body(1, 5)))
    assert x.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("target", "changes", "says"),
    [
        (ROWS, {}, "--shape ids=8"),
        (ROWS, {"shapes": {"ids": (2, 3)}}, "does not fit [-1]"),
        (ROWS, {"shapes": {"x": (5,), "ids": (1,)}}, "does not fit [4]"),
        (ROWS, {"shapes": {"y": (5,)}}, "'y' is unknown; expected x, ids"),
        (ROWS, {"inputs": {"y": [1]}}, "'y' is unknown"),
        (ROWS, {"inputs": {"x": [["a"] * 4]}, "shapes": {"ids": (1,)}}, "not FP32"),
        (ROWS, {"inputs": {"x": [[[1.0]]]}, "shapes": {"ids": (1,)}}, "has shape [1, 1, 1]"),
        (ROWS, {"rows": (1, 9), "shapes": {"ids": (1,)}}, "takes up to 8"),
        (FLAT, {"rows": (2, 2)}, "no batch dimension"),
        (Target((), False, 0), {}, "names no inputs"),
    ],
)
def test_what_does_not_fit_the_model_is_named(target, changes, says):
    with pytest.raises(InvalidArgument) as caught:
        bodies_of(plan(**changes), target)
    assert says in caught.value.message


def test_a_server_without_a_configuration_is_taken_by_its_shapes():
    metadata = oip.ModelMetadataResponse(name="m")
    metadata.inputs.add(name="x", datatype="FP32", shape=[-1, 4])
    assert target_of(metadata, None) == Target((TensorSpec("x", "FP32", (-1, 4)),), True, 0)
    config = config_pb2.ModelConfig(max_batch_size=0)
    assert not target_of(metadata, config).batches
    metadata.inputs.add(name="y", datatype="FP32", shape=[4])
    assert not target_of(metadata, None).batches


def test_a_job_and_its_bodies_reach_another_process():
    mix = Mix((TrafficClass("gold", deadline_s=0.05),), (Tenant("a", token="t"),))
    told = plan(mix=mix, processes=2, max_outstanding=5, shapes={"ids": (2,)}, rows=(1, 2))
    bodies = bodies_of(told, ROWS)
    jobs = [Job.of_line(job.line()) for job in jobs_of(told, bodies)]
    assert [job.part for job in jobs] == [0, 1]
    assert sum(job.most_out for job in jobs) == 5
    for job in jobs:
        assert job.plan == told
        assert job.bodies(content_of(bodies)) == bodies


@pytest.mark.parametrize("version", ["", "1", "123456789"])
@pytest.mark.parametrize("model", ["m", "m" * 200])
def test_the_version_is_found_in_a_reply(version, model):
    spec = TensorSpec("y", "FP32", (-1, 1))
    reply = infer_reply(
        model=model, version=version, request_id="1", outputs=[(spec, (1, 1), b"\0" * 4)]
    )
    assert version_in(reply.SerializeToString()) == version
