"""A replica over real gRPC: answers, refusals, readiness, descriptions, draining."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
import torch

from chassis import failpoints
from chassis.errors import InvalidArgument
from chassis.infer import decoded_outputs
from inference_service.settings import ReplicaSettings
from protos.headrace.v1 import replica_pb2
from protos.inference import grpc_service_pb2 as oip
from tests.inference_service.line import GATE, WAITING, expected
from tests.inference_service.served_replica import ServedReplica, request

X = np.arange(8, dtype=np.float32).reshape(2, 4)
ONE = np.ones((1, 4), dtype=np.float32)
WAITS = np.full((1, 4), 7, dtype=np.float32)
RAISES = np.full((1, 4), 13, dtype=np.float32)
MISSES = np.full((1, 4), 14, dtype=np.float32)


async def test_an_answer_names_its_version_and_request(replica):
    reply = await replica.oip.ModelInfer(request(X, request_id="r-17"))
    assert (reply.model_name, reply.model_version, reply.id) == ("affine", "1", "r-17")
    assert [(o.name, o.datatype, list(o.shape)) for o in reply.outputs] == [("y", "FP32", [2, 3])]
    np.testing.assert_array_equal(decoded_outputs(reply)["y"], expected(1.0, X))


async def test_a_typed_request_gets_a_typed_answer(replica):
    made = request(X)
    del made.raw_input_contents[:]
    made.inputs[0].contents.fp32_contents.extend(X.reshape(-1).tolist())
    reply = await replica.oip.ModelInfer(made)
    assert not reply.raw_output_contents
    np.testing.assert_array_equal(decoded_outputs(reply)["y"], expected(1.0, X))


async def test_a_published_version_takes_over(replica, line):
    line.publish(2.0, step=70)
    status = await replica.wait_serving(2)
    version, y = await replica.infer(X)
    assert version == 2
    np.testing.assert_array_equal(y, expected(2.0, X))
    assert (status.wanted_version, status.step, status.swaps) == (2, 70, 2)
    assert [(slot.state, slot.version) for slot in status.slots] == [
        (replica_pb2.SLOT_STATE_STANDBY, 1),
        (replica_pb2.SLOT_STATE_SERVING, 2),
    ]
    assert status.age_ms >= 0
    assert status.last_load_ms > 0


async def test_a_failed_load_is_visible_and_changes_nothing(replica, line):
    line.publish(2.0, change=line.with_tensor("weight", torch.ones(4, 3)))
    status = await replica.wait(lambda model: model.failures)
    failure = status.failures[0]
    assert (failure.version, failure.reason) == (2, "SHAPE_MISMATCH")
    assert "'weight'" in failure.message
    assert (status.serving_version, status.wanted_version) == (1, 2)
    assert (await replica.infer(X))[0] == 1
    ready = await replica.oip.ServerReady(oip.ServerReadyRequest())
    assert ready.ready
    index = await replica.oip.RepositoryIndex(oip.RepositoryIndexRequest())
    assert [(m.version, m.state, m.reason.split(":")[0]) for m in index.models] == [
        ("1", "READY", ""),
        ("2", "UNAVAILABLE", "SHAPE_MISMATCH"),
    ]
    ready_only = await replica.oip.RepositoryIndex(oip.RepositoryIndexRequest(ready=True))
    assert [m.version for m in ready_only.models] == ["1"]


async def test_a_pinned_version_is_answered_by_it_or_refused(replica, line):
    line.publish(2.0)
    await replica.wait_serving(2)
    line.publish(3.0)
    await replica.wait_serving(3)
    assert (await replica.infer(X, version="2"))[0] == 2
    np.testing.assert_array_equal((await replica.infer(X, version="2"))[1], expected(2.0, X))
    assert (await replica.infer(X, version="3"))[0] == 3
    code, sentence = await replica.refusal(request(X, version="1"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert sentence == "version 1 of model 'affine' is not loaded here; version 3 serves"
    code, sentence = await replica.refusal(request(X, version="99"))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "99" in sentence
    code, sentence = await replica.refusal(request(X, version="v2"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_rollback_is_followed(replica, line):
    line.publish(2.0)
    await replica.wait_serving(2)
    line.rollback(1)
    await replica.wait_serving(1)
    np.testing.assert_array_equal((await replica.infer(X))[1], expected(1.0, X))


@pytest.mark.parametrize(
    ("made", "code", "words"),
    [
        (request(X, model="other"), "NOT_FOUND", "'other' is not served here; expected one of"),
        (request(X[:, :3]), "INVALID_ARGUMENT", "shape [2, 3]; expected [-1, 4]"),
        (request(X.astype(np.float64)), "INVALID_ARGUMENT", "expected FP32"),
        (request(np.zeros((9, 4), np.float32)), "INVALID_ARGUMENT", "9 rows; the model takes"),
        (request(X, outputs=["z"]), "INVALID_ARGUMENT", "output 'z' is unknown"),
        (request(X, channel="canary"), "NOT_FOUND", "follows the channel 'stable' here"),
        (request(X, timeout=-1), "INVALID_ARGUMENT", "'timeout' must be a number of microseconds"),
        (request(X, timeout="soon"), "INVALID_ARGUMENT", "'timeout' must be"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_bad_input_is_named(replica, made, code, words):
    found, sentence = await replica.refusal(made)
    assert found.name == code
    assert words in sentence


async def test_parameters_that_fit_are_accepted(replica):
    version, _ = await replica.infer(X, channel="stable", timeout=5_000_000, priority=3)
    assert version == 1


async def test_a_malformed_message_is_invalid(replica):
    call = replica.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"\xff\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_rpcs_that_a_replica_lacks(replica):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await replica.oip.CudaSharedMemoryStatus(oip.CudaSharedMemoryStatusRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_replica_without_a_version_lives_but_is_not_ready(store_url, line):
    async with ServedReplica(store_url) as started:
        assert (await started.oip.ServerLive(oip.ServerLiveRequest())).live
        assert not (await started.oip.ServerReady(oip.ServerReadyRequest())).ready
        ready = oip.ModelReadyRequest(name="affine")
        assert not (await started.oip.ModelReady(ready)).ready
        code, sentence = await started.refusal(request(X))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert sentence == "model 'affine' has no version loaded yet"
        index = await started.oip.RepositoryIndex(oip.RepositoryIndexRequest())
        assert [(m.name, m.state) for m in index.models] == [("affine", "UNAVAILABLE")]
        line.publish(1.0)
        await started.wait_ready()
        assert (await started.oip.ModelReady(ready)).ready
        assert (await started.oip.ServerReady(oip.ServerReadyRequest())).ready


async def test_ready_needs_every_model(store_url, line):
    async with ServedReplica(store_url, models="affine,other@canary") as started:
        line.publish(1.0)
        await started.wait_serving(1)
        assert not started.replica.readiness.ready
        ready = await started.oip.ModelReady(oip.ModelReadyRequest(name="affine", version="1"))
        assert ready.ready
        unloaded = await started.oip.ModelReady(oip.ModelReadyRequest(name="affine", version="2"))
        assert not unloaded.ready
        assert (await started.infer(X))[0] == 1
        status = await started.status()
        assert [(m.model, m.channel) for m in status.models] == [
            ("affine", "stable"),
            ("other", "canary"),
        ]


async def test_descriptions(replica):
    server = await replica.oip.ServerMetadata(oip.ServerMetadataRequest())
    assert server.name == "headrace"
    assert "statistics" in server.extensions
    metadata = await replica.oip.ModelMetadata(oip.ModelMetadataRequest(name="affine"))
    assert list(metadata.versions) == ["1"]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("x", "FP32", [-1, 4])
    ]
    config = (await replica.oip.ModelConfig(oip.ModelConfigRequest(name="affine"))).config
    assert config.max_batch_size == 8
    assert list(config.input[0].dims) == [4]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await replica.oip.ModelMetadata(oip.ModelMetadataRequest(name="affine", version="5"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await replica.oip.ModelConfig(oip.ModelConfigRequest(name="nowhere"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_statistics_count_rows_batches_and_failures(moody, line):
    for x in (X, X, ONE):
        await moody.infer(x)
    await moody.refusal(request(RAISES))
    line.publish_moody(2.0)
    await moody.wait_serving(2)
    await moody.infer(X)
    reply = await moody.oip.ModelStatistics(oip.ModelStatisticsRequest(name="affine"))
    first, second = reply.model_stats
    assert (first.version, first.inference_count, first.execution_count) == ("1", 5, 3)
    assert first.inference_stats.success.count == 3
    assert first.inference_stats.queue.count == 3
    assert first.inference_stats.fail.count == 1
    assert first.inference_stats.compute_infer.ns > 0
    assert [(b.batch_size, b.compute_infer.count) for b in first.batch_stats] == [(1, 1), (2, 2)]
    assert (second.version, second.inference_count) == ("2", 2)
    one = await moody.oip.ModelStatistics(oip.ModelStatisticsRequest(name="affine", version="2"))
    assert [entry.version for entry in one.model_stats] == ["2"]
    everything = await moody.oip.ModelStatistics(oip.ModelStatisticsRequest())
    assert len(everything.model_stats) == 2


async def test_a_forward_that_raises_fails_its_batch_only(moody):
    for made in (request(RAISES), request(MISSES)):
        code, sentence = await moody.refusal(made)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert sentence.startswith("version 1 of model 'affine' cannot compute these inputs")
        assert "secret" not in sentence
    np.testing.assert_array_equal((await moody.infer(ONE))[1], expected(1.0, ONE))


async def test_the_loop_answers_while_a_load_and_a_forward_pass_block(moody, line):
    failpoints.arm("load.after_fetch=sleep:1.0")
    line.publish_moody(2.0)
    slow = asyncio.create_task(moody.infer(WAITS))
    await asyncio.to_thread(WAITING.wait, 10)
    status = await moody.wait(lambda model: model.load_step == "fetch")
    assert status.serving_version == 1
    live = await asyncio.wait_for(moody.oip.ServerLive(oip.ServerLiveRequest()), 0.5)
    assert live.live
    assert (await moody.oip.ServerReady(oip.ServerReadyRequest())).ready
    GATE.set()
    # Version 1 answers: the load sleeps on.
    assert (await slow)[0] == 1
    assert (await moody.infer(X))[0] == 1
    await moody.wait_serving(2)


async def test_work_whose_deadline_passed_is_skipped(moody):
    slow = asyncio.create_task(moody.infer(WAITS))
    await asyncio.to_thread(WAITING.wait, 10)
    late = asyncio.create_task(moody.refusal(request(ONE, timeout=1)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await moody.oip.ModelInfer(request(ONE), timeout=0.05)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    cancelled = moody.oip.ModelInfer(request(ONE))
    await moody.wait(lambda _: moody.replica.admission.requests == 3)
    cancelled.cancel()
    await moody.wait(lambda _: moody.replica.admission.requests == 2)
    GATE.set()
    await slow
    code, sentence = await late
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "while the batch waited" in sentence
    (counted,) = (await moody.oip.ModelStatistics(oip.ModelStatisticsRequest())).model_stats
    assert counted.execution_count == 1, "only the slow one ran"
    assert moody.replica.admission.bytes == 0


async def test_what_waits_is_bounded(store_url, line):
    line.publish_moody(1.0)
    async with ServedReplica(store_url, max_queue_requests=2) as started:
        await started.wait_ready()
        slow = asyncio.create_task(started.infer(WAITS))
        await asyncio.to_thread(WAITING.wait, 10)
        waiting = asyncio.create_task(started.infer(ONE))
        await started.wait(lambda _: started.replica.admission.requests == 2)
        code, sentence = await started.refusal(request(ONE))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 batches" in sentence
        GATE.set()
        await slow
        await waiting
        assert (await started.infer(ONE))[0] == 1


async def test_draining_finishes_what_runs(moody):
    stream = moody.oip.ModelStreamInfer()
    await stream.write(request(WAITS, request_id="in flight"))
    slow = asyncio.create_task(moody.infer(ONE))
    await asyncio.to_thread(WAITING.wait, 10)
    await moody.wait(lambda _: moody.replica.admission.requests == 2)
    draining = asyncio.create_task(moody.replica.drain())
    await moody.wait(lambda _: moody.replica.readiness.draining)
    assert not (await moody.oip.ServerReady(oip.ServerReadyRequest())).ready
    assert (await moody.status()).draining
    late = asyncio.create_task(moody.infer(ONE))
    await moody.wait(lambda _: moody.replica.admission.requests == 3)
    assert not draining.done()
    GATE.set()
    assert (await stream.read()).infer_response.id == "in flight"
    assert await stream.read() is grpc.aio.EOF
    assert (await slow)[0] == 1
    assert (await late)[0] == 1, "who comes late is answered while the server stands"
    await draining


async def test_a_drain_does_not_wait_for_ever(store_url, line):
    line.publish_moody(1.0)
    async with ServedReplica(store_url, drain_s=0.05) as started:
        await started.wait_ready()
        slow = asyncio.create_task(started.infer(WAITS))
        await asyncio.to_thread(WAITING.wait, 10)
        await started.replica.drain()
        assert started.replica.admission.requests == 1
        GATE.set()
        await slow


async def test_the_newest_versions_are_counted_only(replica, line):
    for weight in range(2, 22):
        await replica.wait_serving(line.publish(float(weight)))
        await replica.infer(ONE)
    reply = await replica.oip.ModelStatistics(oip.ModelStatisticsRequest(name="affine"))
    assert [entry.version for entry in reply.model_stats] == [str(v) for v in range(6, 22)]


def test_settings_name_what_is_wrong(store_url):
    with pytest.raises(InvalidArgument, match="different models"):
        ReplicaSettings(store=store_url, models="a,a@canary").followed()
    with pytest.raises(InvalidArgument, match="not a valid name"):
        ReplicaSettings(store=store_url, models="../a").followed()
    with pytest.raises(InvalidArgument, match="replica.device"):
        ServedReplica(store_url, device="cuda:7")


async def test_outputs_are_those_asked_for_in_that_order(store_url, line):
    line.publish_two_heads(1.0)
    async with ServedReplica(store_url) as started:
        await started.wait_ready()
        for wanted in (["z"], ["z", "y"], ["y"]):
            reply = await started.oip.ModelInfer(request(X, outputs=wanted))
            assert [output.name for output in reply.outputs] == wanted
            found = decoded_outputs(reply)
            assert found.keys() == set(wanted)
            if "z" in found:
                np.testing.assert_array_equal(found["z"], expected(1.0, X).sum(axis=1) > 10)
        everything = await started.oip.ModelInfer(request(X))
        assert [(o.name, o.datatype) for o in everything.outputs] == [("y", "FP32"), ("z", "BOOL")]
