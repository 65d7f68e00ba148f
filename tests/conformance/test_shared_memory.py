"""System shared memory with Triton's own utilities; memory of a device that is not there."""

from __future__ import annotations

from uuid import uuid4

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import shared_memory

from tests.conformance.target import MEMORY_PREFIX, refusal_of

pytestmark = pytest.mark.system

X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture
def region(client):
    """(name, handle) of 64 bytes that the server maps: the input, then the output."""
    name = f"{MEMORY_PREFIX}{uuid4().hex}"
    handle = shared_memory.create_shared_memory_region(name, f"/{name}", 64)
    try:
        client.register_system_shared_memory(name, f"/{name}", 64)
        yield name, handle
        client.unregister_system_shared_memory(name)
    finally:
        shared_memory.destroy_shared_memory_region(handle)


def test_tensors_travel_through_a_region(client, region):
    name, handle = region
    shared_memory.set_shared_memory_region(handle, [X])
    sent = triton.InferInput("x", [2, 4], "FP32")
    sent.set_shared_memory(name, 32)
    asked = triton.InferRequestedOutput("y")
    asked.set_shared_memory(name, 32, offset=32)
    answer = client.infer("identity-fp32", [sent], outputs=[asked])
    assert answer.get_output("y").parameters["shared_memory_region"].string_param == name
    found = shared_memory.get_contents_as_numpy(handle, np.float32, [2, 4], offset=32)
    assert np.array_equal(found, X)


def test_the_status_tells_of_regions(client, region):
    name, _ = region
    regions = client.get_system_shared_memory_status().regions
    assert (regions[name].name, regions[name].byte_size) == (name, 64)


def refused_region(stub, offset, size):
    request = service_pb2.ModelInferRequest(model_name="identity-fp32")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[2, 4])
    tensor.parameters["shared_memory_region"].string_param = f"{MEMORY_PREFIX}none"
    tensor.parameters["shared_memory_byte_size"].int64_param = size
    tensor.parameters["shared_memory_offset"].int64_param = offset
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    return refusal_of(caught.value)


@pytest.mark.parametrize(("offset", "size"), [(0, 32), (-1, 32), (0, -1), (2**62, 2**62)])
def test_a_region_that_is_not_there_is_named(target, offset, size):
    with target.stub() as stub:
        refusal = refused_region(stub, offset, size)
    assert refusal.code in ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION")
    assert refusal.reason


@pytest.mark.parametrize("rpc", ["Status", "Register", "Unregister"])
def test_memory_of_a_device_needs_the_device(target, rpc):
    asked = getattr(service_pb2, f"CudaSharedMemory{rpc}Request")(name="region")
    with target.stub() as stub, pytest.raises(grpc.RpcError) as caught:
        getattr(stub, f"CudaSharedMemory{rpc}")(asked)
    assert refusal_of(caught.value).code == "UNIMPLEMENTED"
