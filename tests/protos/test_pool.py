"""The private pool keeps what it made."""

import gc
import weakref

import pytest

from protos.inference import grpc_service_pb2 as oip
from protos.pool import POOL, message_class

INPUT = oip.ModelInferRequest.DESCRIPTOR.fields_by_name["inputs"].message_type.full_name


def test_the_class_of_a_nested_message_outlives_its_messages():
    request = oip.ModelInferRequest()
    known = weakref.ref(type(request.inputs.add()))
    del request
    gc.collect()
    assert known() is not None
    assert type(oip.ModelInferRequest().inputs.add()) is known()


@pytest.mark.parametrize(
    "name", [INPUT, "inference.InferParameter", "inference.ModelInferRequest.ParametersEntry"]
)
def test_each_class_is_made_once(name):
    first = weakref.ref(message_class(POOL.FindMessageTypeByName(name)))
    gc.collect()
    assert message_class(POOL.FindMessageTypeByName(name)) is first()
