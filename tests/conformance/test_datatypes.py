"""Every datatype there and back, raw and typed, as arrays of Triton's client and as messages."""

from __future__ import annotations

import pytest
from tritonclient.grpc import service_pb2

from tests.conformance.datatypes import TYPED_FIELDS, same, values
from tests.conformance.models import TORCH_DATATYPES
from tests.conformance.target import message, refused, tensor

pytestmark = pytest.mark.system

DATATYPES = (*TORCH_DATATYPES, "BYTES")


def identity(datatype):
    """The model whose y is its x; a model of texts has to bring its own code."""
    return "text" if datatype == "BYTES" else f"identity-{datatype.lower()}"


@pytest.mark.parametrize("datatype", DATATYPES)
def test_raw_there_and_back(client, datatype):
    x = values(datatype)
    sent = tensor("x", x, datatype)
    answer = client.infer(identity(datatype), [sent])
    assert same(answer.as_numpy("y"), x)
    reply = answer.get_response()
    # Bit by bit, and raw because the request was.
    assert reply.raw_output_contents[0] == sent._get_content()
    assert len(reply.raw_output_contents) == len(reply.outputs)
    assert not reply.outputs[0].HasField("contents")
    assert (reply.outputs[0].datatype, list(reply.outputs[0].shape)) == (datatype, [2, 4])


def typed_request(datatype, contents, shape=(2, 4)):
    request = message(identity(datatype), ("x", datatype, list(shape), None))
    getattr(request.inputs[0].contents, TYPED_FIELDS[datatype]).extend(contents)
    return request


@pytest.mark.parametrize("datatype", [kind for kind in DATATYPES if kind in TYPED_FIELDS])
def test_typed_in_typed_out(target, datatype):
    request = typed_request(datatype, values(datatype).reshape(-1).tolist())
    with target.stub() as stub:
        reply = stub.ModelInfer(request)
    assert not reply.raw_output_contents
    # As messages, because NaN is not equal to itself.
    assert str(reply.outputs[0].contents) == str(request.inputs[0].contents)
    assert (reply.outputs[0].datatype, list(reply.outputs[0].shape)) == (datatype, [2, 4])


@pytest.mark.parametrize("datatype", [kind for kind in DATATYPES if kind not in TYPED_FIELDS])
def test_halves_travel_only_raw(target, datatype):
    request = message(identity(datatype), ("x", datatype, [1, 4], None))
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    with target.stub() as stub, refused("INVALID_ARGUMENT", "BAD_CONTENTS"):
        stub.ModelInfer(request)


@pytest.mark.parametrize(
    ("datatype", "value"),
    [("INT8", 128), ("INT8", -129), ("UINT8", 256), ("INT16", 2**15), ("UINT16", 2**16)],
)
def test_a_typed_value_outside_its_datatype_is_named(target, datatype, value):
    request = typed_request(datatype, [0, 0, value, 0], (1, 4))
    with target.stub() as stub, refused("INVALID_ARGUMENT", "BAD_CONTENTS") as refusals:
        stub.ModelInfer(request)
    assert datatype in refusals[0].sentence
    assert "'x'" in refusals[0].sentence


@pytest.mark.parametrize("datatype", [kind for kind in DATATYPES if kind in TYPED_FIELDS])
def test_values_in_the_wrong_field_are_refused(target, datatype):
    wrong = "fp64_contents" if datatype != "FP64" else "int_contents"
    request = message(identity(datatype), ("x", datatype, [1, 4], None))
    getattr(request.inputs[0].contents, wrong).extend([1, 1, 1, 1])
    with target.stub() as stub, pytest.raises(Exception, match=TYPED_FIELDS[datatype]) as caught:
        stub.ModelInfer(request)
    assert caught.value.code().name == "INVALID_ARGUMENT"


def test_message_classes_are_tritons_own():
    assert service_pb2.ModelInferRequest.DESCRIPTOR.full_name == "inference.ModelInferRequest"
