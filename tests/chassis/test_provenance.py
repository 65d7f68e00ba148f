"""Where an answer comes from, as parameters of its reply."""

import pytest

from chassis.errors import InvalidArgument
from chassis.provenance import Provenance, max_staleness_ms, min_revision, provenance_in
from protos.inference import grpc_service_pb2 as oip


def test_a_reply_tells_its_provenance_under_our_names():
    reply = oip.ModelInferResponse()
    told = Provenance(7, 1200, 2**40)
    told.write(reply.parameters)
    assert {name: value.int64_param for name, value in reply.parameters.items()} == {
        "headrace.version": 7,
        "headrace.train_step": 1200,
        "headrace.age_ms": 2**40,
    }
    assert provenance_in(reply.parameters) == told


def test_a_revision_is_told_where_there_is_one():
    reply = oip.ModelInferResponse()
    told = Provenance(7, 1200, 3, 12)
    told.write(reply.parameters)
    assert reply.parameters["headrace.revision"].int64_param == 12
    assert provenance_in(reply.parameters) == told


def test_a_request_bounds_the_revision():
    request = oip.ModelInferRequest()
    assert min_revision(request.parameters) is None
    request.parameters["min_revision"].int64_param = 12
    assert min_revision(request.parameters) == 12
    request.parameters["min_revision"].string_param = "12"
    with pytest.raises(InvalidArgument, match="'min_revision' must be a number of moves"):
        min_revision(request.parameters)


def test_another_servers_reply_tells_none():
    reply = oip.ModelInferResponse()
    reply.parameters["triton_final_response"].bool_param = True
    assert provenance_in(reply.parameters) is None


@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
@pytest.mark.parametrize("most_ms", [0, 250])
def test_a_request_bounds_the_age(kind, most_ms):
    request = oip.ModelInferRequest()
    assert max_staleness_ms(request.parameters) is None
    setattr(request.parameters["max_staleness_ms"], kind, most_ms)
    assert max_staleness_ms(request.parameters) == most_ms


@pytest.mark.parametrize(
    ("kind", "value"),
    [("int64_param", -1), ("string_param", "5"), ("bool_param", True), ("double_param", 5.0)],
)
def test_what_is_no_number_of_milliseconds_is_refused(kind, value):
    request = oip.ModelInferRequest()
    setattr(request.parameters["max_staleness_ms"], kind, value)
    with pytest.raises(InvalidArgument, match="milliseconds") as raised:
        max_staleness_ms(request.parameters)
    assert raised.value.field == "parameters[max_staleness_ms]"
