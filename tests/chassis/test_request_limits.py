"""How much a request may hold: each bound at its edge and one over it."""

from dataclasses import fields, replace

import pytest

from chassis.content_settings import ContentSettings
from chassis.errors import InvalidArgument
from chassis.limits import Limits, check_limits, check_tensor_bytes
from protos.inference import grpc_service_pb2 as oip

LIMITS = Limits(
    tensors=2,
    outputs=2,
    dims=3,
    elements=24,
    bytes_elements=6,
    tensor_bytes=100,
    name_chars=5,
    parameters=2,
    parameter_chars=7,
)


def request():
    """Everything at its edge."""
    made = oip.ModelInferRequest(model_name="m" * 9999, id="i" * 7)
    for name in ("a" * 5, "b"):
        made.inputs.add(name=name, datatype="FP32", shape=[2, 3, 4])
        made.outputs.add(name=name)
    made.inputs[1].datatype = "BYTES"
    made.inputs[1].shape[:] = [6, 1, 1]
    for holder in (made, made.inputs[1], made.outputs[1]):
        holder.parameters["p" * 5].string_param = "v" * 7
        holder.parameters["q"].int64_param = 2**60
    return made


OVER = {
    "TOO_MANY_TENSORS inputs": lambda m: m.inputs.add(name="c"),
    "TOO_MANY_OUTPUTS outputs": lambda m: m.outputs.add(name="c"),
    "TOO_MANY_DIMS inputs[0].shape": lambda m: m.inputs[0].shape.append(1),
    "TOO_MANY_ELEMENTS inputs[0].shape": lambda m: m.inputs[0].shape.__setitem__(0, 3),
    "TOO_MANY_ELEMENTS inputs[1].shape": lambda m: m.inputs[1].shape.__setitem__(0, 7),
    "NAME_TOO_LONG inputs[1].name": lambda m: setattr(m.inputs[1], "name", "b" * 6),
    "NAME_TOO_LONG outputs[0].name": lambda m: setattr(m.outputs[0], "name", "\u00e9" * 6),
    "TOO_MANY_PARAMETERS parameters": lambda m: m.parameters["r"],
    "TOO_MANY_PARAMETERS inputs[1].parameters": lambda m: m.inputs[1].parameters["r"],
    "TOO_MANY_PARAMETERS outputs[1].parameters": lambda m: m.outputs[1].parameters["r"],
    "NAME_TOO_LONG inputs[0].parameters": lambda m: m.inputs[0].parameters["p" * 6],
    "PARAMETER_TOO_LONG parameters[q]": lambda m: setattr(
        m.parameters["q"], "string_param", "v" * 8
    ),
    "PARAMETER_TOO_LONG outputs[1].parameters[q]": lambda m: setattr(
        m.outputs[1].parameters["q"], "string_param", "v" * 8
    ),
    "PARAMETER_TOO_LONG id": lambda m: setattr(m, "id", "i" * 8),
}


def test_everything_may_be_reached():
    assert check_limits(request(), LIMITS) is None


@pytest.mark.parametrize("fault", OVER)
def test_nothing_may_be_passed(fault):
    reason, field = fault.split(" ")
    made = request()
    OVER[fault](made)
    with pytest.raises(InvalidArgument, match="expected at most") as caught:
        check_limits(made, LIMITS)
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_the_smaller_bound_on_elements_counts(datatype):
    made = oip.ModelInferRequest()
    made.inputs.add(name="x", datatype=datatype, shape=[4])
    check_limits(made, replace(LIMITS, elements=4, bytes_elements=5))
    with pytest.raises(InvalidArgument, match="at most 3 elements"):
        check_limits(made, replace(LIMITS, elements=3, bytes_elements=5))


def test_the_product_of_dimensions_does_not_overflow():
    made = request()
    made.inputs[0].shape[:] = [2**62, 2**62, 2**62]
    with pytest.raises(InvalidArgument, match="expected at most 24 elements"):
        check_limits(made, LIMITS)


def test_bytes_of_tensors_at_and_over_the_edge():
    check_tensor_bytes(100, LIMITS, "inputs")
    with pytest.raises(InvalidArgument, match="take 101 bytes .* at most 100") as caught:
        check_tensor_bytes(101, LIMITS, "inputs")
    assert caught.value.reason == "TOO_MANY_BYTES"


def test_each_limit_is_a_setting():
    given = ContentSettings(
        max_request_tensors=2,
        max_request_outputs=2,
        max_tensor_dims=3,
        max_tensor_elements=24,
        max_bytes_elements=6,
        max_name_chars=5,
        max_request_parameters=2,
        max_parameter_chars=7,
    )
    found = given.limits(2**20)
    assert found.tensor_bytes == 2**20 - 2**16
    assert replace(found, tensor_bytes=100) == LIMITS
    assert len(fields(Limits)) == 9
