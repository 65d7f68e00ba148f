"""A replica called alone: forms of outputs, padding, shared memory and limits."""

from __future__ import annotations

from multiprocessing import shared_memory
from uuid import uuid4

import grpc
import numpy as np
import pytest
import torch
from torch import nn

from chassis.edge import error_from_rpc
from chassis.infer import decoded_outputs
from chassis.stream_errors import error_of
from chassis.tensors import Padding
from headrace import Model, Publisher, TensorSpec
from protos.inference import grpc_service_pb2 as oip
from tests.inference_service.served_replica import ServedReplica, request


class Ragged(Model):
    """The sum of each row, which filler changes; the row itself; both halves of a class."""

    name = "ragged"
    inputs = [TensorSpec("x", "FP32", (-1, -1))]
    outputs = [TensorSpec("total", "FP32", (-1, 1)), TensorSpec("y", "FP32", (-1, -1))]
    max_batch_size = 8
    padding = [Padding(1, (4, 8), {"x": 1000.0}, ("y",))]
    labels = {"y": ("cat", "dog")}

    def build(self) -> nn.Module:
        return _Ragged()


class _Ragged(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.sum(dim=1, keepdim=True), x.clone()


@pytest.fixture
async def ragged(store_url, store):
    with Publisher(store_url, model=Ragged()) as publisher:
        publisher.publish(Ragged().build())
    settings = {"models": "ragged", "shared_memory": True, "max_tensor_elements": 18}
    async with ServedReplica(store_url, **settings) as started:
        await started.wait_ready()
        yield started


@pytest.fixture
def block():
    made = shared_memory.SharedMemory(f"headrace_{uuid4().hex}", create=True, size=64)
    yield made
    made.close()
    made.unlink()


@pytest.mark.parametrize(("width", "filler"), [(1, 3), (3, 1), (4, 0), (5, 3), (8, 0), (9, 0)])
async def test_one_request_is_filled_up_and_cut_back(ragged, width, filler):
    x = np.arange(2 * width, dtype=np.float32).reshape(2, width)
    found = decoded_outputs(await ragged.oip.ModelInfer(request(x, model="ragged")))
    assert np.array_equal(found["y"], x)
    assert np.array_equal(found["total"], x.sum(axis=1, keepdims=True) + 1000 * filler)


async def test_classes_are_of_what_was_cut_back_and_labelled(ragged):
    made = request(np.array([[1, 3, 2]], np.float32), model="ragged", outputs=["y", "total"])
    made.outputs[0].parameters["classification"].int64_param = 9
    reply = await ragged.oip.ModelInfer(made)
    found = decoded_outputs(reply)
    assert found["y"].tolist() == [[b"3.000000:1:dog", b"2.000000:2", b"1.000000:0:cat"]]
    assert found["total"].tolist() == [[1006]]


async def register(ragged, block):
    asked = oip.SystemSharedMemoryRegisterRequest(name="r", key=block.name, byte_size=64)
    await ragged.oip.SystemSharedMemoryRegister(asked)


def in_region(byte_size=16):
    made = request(np.zeros((1, 4), np.float32), model="ragged", outputs=["total", "y"])
    del made.raw_input_contents[:]
    for parameters, size, offset in (
        (made.inputs[0].parameters, 16, 0),
        (made.outputs[1].parameters, byte_size, 32),
    ):
        parameters["shared_memory_region"].string_param = "r"
        parameters["shared_memory_byte_size"].int64_param = size
        parameters["shared_memory_offset"].int64_param = offset
    return made


async def test_shared_memory_both_ways(ragged, block):
    await register(ragged, block)
    x = np.array([1, 2, 3, 4], np.float32)
    block.buf[:16] = x.tobytes()
    reply = await ragged.oip.ModelInfer(in_region())
    assert decoded_outputs(reply)["total"].tolist() == [[10]]
    assert bytes(block.buf[32:48]) == x.tobytes()
    metadata = await ragged.oip.ServerMetadata(oip.ServerMetadataRequest())
    assert {"classification", "system_shared_memory"} <= set(metadata.extensions)


async def test_an_output_too_large_for_its_region_is_an_error_and_the_stream_goes_on(ragged, block):
    await register(ragged, block)
    with pytest.raises(grpc.RpcError) as caught:
        await ragged.oip.ModelInfer(in_region(byte_size=15))
    error = error_from_rpc(caught.value)
    assert (error.code.name, error.reason) == ("INVALID_ARGUMENT", "REGION_TOO_SMALL")
    assert error.field == "outputs[1].parameters[shared_memory_byte_size]"
    call = ragged.oip.ModelStreamInfer()
    for size in (15, 16):
        await call.write(in_region(byte_size=size))
    await call.done_writing()
    failed, answered = [reply async for reply in call]
    assert error_of(failed).reason == "REGION_TOO_SMALL"
    assert not answered.error_message
    assert answered.infer_response.parameters["triton_final_response"].bool_param


async def test_limits_hold_at_a_replica_too(ragged):
    assert (await ragged.infer(np.ones((2, 9), np.float32), model="ragged"))[0] == 1
    code, sentence = await ragged.refusal(request(np.ones((1, 19), np.float32), model="ragged"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected at most 18 elements" in sentence


async def test_cuda_memory_is_unimplemented_without_cuda(ragged):
    with pytest.raises(grpc.RpcError) as caught:
        await ragged.oip.CudaSharedMemoryRegister(oip.CudaSharedMemoryRegisterRequest(name="g"))
    error = error_from_rpc(caught.value)
    assert (error.code.name, error.reason) == ("UNIMPLEMENTED", "CUDA_UNAVAILABLE")
