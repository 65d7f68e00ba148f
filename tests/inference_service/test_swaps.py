"""Swaps under load in one process: no batch is torn, none fails, memory stays where it is."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
import torch

from chassis.infer import decoded_outputs
from tests.inference_service.follower import Follower
from tests.inference_service.line import Line, expected
from tests.inference_service.served_replica import ServedReplica, request

SWAPS = 300


def checked(reply, x: np.ndarray) -> int:
    """The version that `reply` names, which must be the one that computed it: weight = version."""
    version = int(reply.model_version)
    np.testing.assert_array_equal(decoded_outputs(reply)["y"], expected(float(version), x))
    return version


async def test_no_batch_is_torn_over_hundreds_of_swaps(replica, line):
    seen, done = [], False
    rows = [np.full((1 + n % 8, 4), 1 + n, np.float32) for n in range(16)]

    async def stream() -> None:
        call = replica.oip.ModelStreamInfer()
        for n, x in enumerate(rows):
            await call.write(request(x, request_id=str(n)))
        while True:
            answer = await call.read()
            assert not answer.error_message, answer
            n = int(answer.infer_response.id)
            seen.append(checked(answer.infer_response, rows[n]))
            if done:
                break
            await call.write(request(rows[n], request_id=str(n)))
        call.cancel()

    async def unary() -> None:
        while not done:
            reply = await replica.oip.ModelInfer(request(rows[3]))
            seen.append(checked(reply, rows[3]))

    async def pinned() -> None:
        """The standby version while it is overwritten again and again."""
        while not done:
            version = str(max(1, replica.replica.models["affine"].slots.serving.version - 1))
            try:
                reply = await replica.oip.ModelInfer(request(rows[5], version=version))
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            else:
                assert reply.model_version == version
                seen.append(checked(reply, rows[5]))

    async with asyncio.TaskGroup() as load:
        for caller in (stream(), unary(), pinned()):
            load.create_task(caller)
        for weight in range(2, SWAPS + 2):
            version = await asyncio.to_thread(line.publish, float(weight))
            status = await replica.wait_serving(version)
        done = True
    assert status.swaps == SWAPS + 1
    assert len(status.failures) == 0
    assert len(set(seen)) > 10
    await replica.wait(lambda model: all(slot.pins == 0 for slot in model.slots))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
async def test_swaps_on_a_gpu(store_url, line):
    x = np.ones((8, 4), np.float32)
    line.publish(1.0)
    async with ServedReplica(store_url, device="cuda:0") as replica:
        for weight in range(2, 22):
            version = line.publish(float(weight))
            await replica.wait_serving(version)
            answered, y = await replica.infer(x)
            assert answered == version
            np.testing.assert_allclose(y, expected(float(weight), x), rtol=1e-3)
        line.rollback(20)
        await replica.wait_serving(20)
        np.testing.assert_allclose((await replica.infer(x))[1], expected(20.0, x), rtol=1e-3)


def test_two_storages_serve_all_versions(store_url, line):
    with Follower(store_url) as follower:
        storages = set()
        for weight in range(1, 41):
            follower.wait_serving(line.publish(float(weight), bias=float(weight)))
            instance = follower.served.slots.serving.instance
            storages.add(tuple(tensor.data_ptr() for tensor in instance.tensors.values()))
        assert len(storages) == 2


def test_a_fast_publishers_last_version_is_reached(store_url, store):
    line = Line(store)
    line.publish(1.0)
    with Follower(store_url) as follower:
        follower.wait_serving(1)
        for weight in range(2, 60):
            line.publish(float(weight))
        assert follower.wait_serving(59).failures == ()
