"""One slot: requests wait for an installation, none fails, none is torn, and the old comes back."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import torch

from chassis import failpoints
from chassis.errors import Unavailable
from inference_service.architecture import Choice
from inference_service.precision import Precision
from inference_service.slot import Slots, SlotState
from model_store.records import ProgramKind
from protos.inference import grpc_service_pb2 as oip
from tests.inference_service.follower import Follower
from tests.inference_service.line import GATE, WAITING, Affine, expected
from tests.inference_service.served_replica import ServedReplica, request
from tests.inference_service.test_swaps import checked

X = np.arange(12, dtype=np.float32).reshape(3, 4)
SWAPS = 100


def serving(follower: Follower, version: int, weight: float) -> None:
    follower.wait_serving(version)
    answered, y = follower.answer(X)
    assert answered == version
    np.testing.assert_array_equal(y, expected(weight, X))


def test_every_version_lies_in_the_same_memory(line, store_url):
    with Follower(store_url, one_slot=True) as follower:
        storages = set()
        for weight in (1.0, 2.0, 3.0, 4.0):
            serving(follower, line.publish(weight), weight)
            instance = follower.served.slots.serving.instance
            storages.add(tuple(tensor.data_ptr() for tensor in instance.tensors.values()))
        assert len(storages) == 1
        assert [s.version for s in follower.served.snapshot().slots] == [4]


def test_a_rollback_is_a_load(line, store_url):
    with Follower(store_url, one_slot=True) as follower:
        serving(follower, line.publish(1.0), 1.0)
        serving(follower, line.publish(2.0), 2.0)
        line.rollback(1)
        serving(follower, 1, 1.0)


@pytest.mark.parametrize("precision", ["published", "bf16"])
@pytest.mark.parametrize("staging", [0, 2**20], ids=["from the store", "kept"])
@pytest.mark.parametrize("point", ["load.after_fill", "load.before_flip"])
def test_a_failed_installation_puts_the_old_weights_back(
    line, store_url, point, staging, precision
):
    choice = Choice(precision=Precision(precision))
    with Follower(store_url, one_slot=True, staging=staging, choice=choice) as follower:
        serving(follower, line.publish(1.0), 1.0)
        failpoints.arm(f"{point}=error")
        line.publish(2.0)
        snapshot = follower.wait_failed(2)
        assert [(s.state, s.version) for s in snapshot.slots] == [(SlotState.SERVING, 1)]
        serving(follower, 1, 1.0)
        failpoints.arm("")
        serving(follower, 2, 2.0)


def test_a_version_that_the_probe_refuses_leaves_the_old_one(line, store_url):
    with Follower(store_url, one_slot=True) as follower:
        serving(follower, line.publish(1.0), 1.0)
        probe = line.put_probe(Affine(2.0), wrong_by=0.5)
        bad = line.publish(2.0, change=lambda m: replace(m, probe=probe))
        assert follower.wait_failed(bad).failures[0].reason == "PROBE_FAILED"
        serving(follower, 1, 1.0)
        serving(follower, line.publish(3.0), 3.0)


def test_old_weights_are_waited_for_until_the_store_answers(line, store_url, monkeypatch):
    with Follower(store_url, one_slot=True, staging=0) as follower:
        serving(follower, line.publish(1.0), 1.0)
        old = {e.digest for e in line.store.manifest("affine", 1).tensors}
        read_blob, asked = follower.store.read_blob, []

        def flaky(named: str) -> bytes:
            if named in old and len(asked) < 2:
                asked.append(named)
                raise Unavailable("STORE_UNAVAILABLE", "not now")
            return read_blob(named)

        monkeypatch.setattr(follower.store, "read_blob", flaky)
        probe = line.put_probe(Affine(2.0), wrong_by=0.5)
        bad = line.publish(2.0, change=lambda m: replace(m, probe=probe))
        follower.wait_failed(bad)
        assert len(asked) == 2
        serving(follower, 1, 1.0)


def test_an_installation_that_takes_too_long_is_given_up(line, store_url):
    with Follower(store_url, one_slot=True, max_stall_s=0.4) as follower:
        serving(follower, line.publish(1.0), 1.0)
        failpoints.arm("load.after_fill=sleep:0.3")
        failure = follower.wait_failed(line.publish(2.0)).failures[0]
        assert failure.reason == "STALL_TOO_LONG"
        failpoints.arm("")
        serving(follower, 1, 1.0)
        serving(follower, line.publish(3.0), 3.0)


def test_a_batch_that_does_not_end_postpones_the_load(line, store_url):
    with Follower(store_url, one_slot=True, max_stall_s=0.2) as follower:
        serving(follower, line.publish(1.0), 1.0)
        pinned = follower.served.slots.pin()
        line.publish(2.0)
        failure = follower.wait(lambda s: bool(s.failures)).failures[0]
        assert (failure.reason, failure.permanent) == ("SLOT_BUSY", False)
        follower.served.slots.release(pinned)
        serving(follower, 2, 2.0)


def test_another_program_takes_a_restart(line, store_url):
    with Follower(store_url, one_slot=True) as follower:
        serving(follower, line.publish(1.0), 1.0)
        path = b"tests.inference_service.line:AffineModel"
        program = line.put_program(ProgramKind.IMPORT_PATH, path)
        other = line.publish(2.0, change=lambda m: replace(m, program=program))
        assert follower.wait_failed(other).failures[0].reason == "PROGRAM_CHANGED"
        serving(follower, 1, 1.0)


def test_a_version_rolled_back_while_it_is_installed_never_serves(line, store_url):
    with Follower(store_url, one_slot=True) as follower:
        serving(follower, line.publish(1.0), 1.0)
        failpoints.arm("load.before_flip=sleep:0.3")
        line.publish(2.0)
        follower.wait(lambda s: s.load_step == "probe")
        line.rollback(1)
        follower.wait(lambda s: not s.load_step)
        serving(follower, 1, 1.0)
        assert follower.served.snapshot().swaps == 1


def test_who_is_held_is_woken_once_it_opens(line):
    line.publish(1.0)
    manifest = line.store.manifest("affine", 1)
    slots, woken = Slots(one=True), []
    assert not slots.hold(lambda: woken.append(0))
    slots.flip(slots.begin_load(manifest), manifest)
    assert not slots.hold(lambda: woken.append(0))
    slot = slots.close(1.0)
    assert slots.pin() is None
    assert slots.pin(1) is None
    assert slots.holds(1)
    assert slots.hold(lambda: woken.append(1))
    assert slots.hold(lambda: woken.append(2))
    slots.open(slot)
    assert woken == [1, 2]
    assert slots.pin() is slot
    assert slots.close(0.01) is None
    assert slots.pin() is slot


async def test_no_request_fails_or_is_torn_over_many_swaps(line, store_url):
    x = np.full((2, 4), 3, np.float32)
    line.publish(1.0)
    async with ServedReplica(store_url, slots=1, max_stall_ms=10_000) as replica:
        await replica.wait_ready()
        seen, done = [], False

        async def ask() -> None:
            while not done:
                seen.append(checked(await replica.oip.ModelInfer(request(x)), x))

        async with asyncio.TaskGroup() as load:
            for _ in range(4):
                load.create_task(ask())
            for weight in range(2, SWAPS + 2):
                await replica.wait_serving(await asyncio.to_thread(line.publish, float(weight)))
            done = True
        status = (await replica.status()).models[0]
        assert (status.swaps, len(status.failures), len(status.slots)) == (SWAPS + 1, 0, 1)
        assert len(set(seen)) > 10


async def test_requests_wait_for_the_installation_in_order(line, store_url):
    """They arrive while the slot is closed, and are answered by what then serves."""
    line.publish_moody(1.0)
    async with ServedReplica(store_url, slots=1, max_stall_ms=20_000) as replica:
        await replica.wait_ready()
        blocked = asyncio.create_task(replica.infer(np.full((1, 4), 7, np.float32)))
        await asyncio.to_thread(WAITING.wait, 10)
        line.publish_moody(2.0)
        await replica.wait(lambda model: model.slots[0].state == SlotState.LOADING.value)
        # To gateways it is ready: they would take it for gone.
        index = await replica.oip.RepositoryIndex(oip.RepositoryIndexRequest(ready=True))
        assert [(entry.version, entry.state) for entry in index.models] == [("1", "READY")]
        waiting = [
            asyncio.create_task(replica.infer(np.full((1, 4), n, np.float32))) for n in range(1, 4)
        ]
        GATE.set()
        assert (await blocked)[0] == 1
        for n, (version, y) in enumerate(await asyncio.gather(*waiting), 1):
            x = np.full((1, 4), n, np.float32)
            np.testing.assert_array_equal(y, expected(float(version), x))
            assert version == 2
        await replica.wait_serving(2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
async def test_one_slot_on_a_gpu(line, store_url):
    x = np.ones((2, 4), np.float32)
    line.publish(1.0)
    async with ServedReplica(store_url, slots=1, device="cuda:0") as replica:
        for weight in range(2, 8):
            await replica.wait_serving(line.publish(float(weight)))
            np.testing.assert_allclose((await replica.infer(x))[1], expected(weight, x), rtol=1e-3)
