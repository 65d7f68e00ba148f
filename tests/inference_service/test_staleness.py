"""How old the weights are that answer: on every reply, as a bound of a request, in the status."""

from __future__ import annotations

from dataclasses import replace

import grpc
import numpy as np

from chassis.clock import wall_time_ms
from chassis.provenance import provenance_in
from chassis.telemetry import REGISTRY
from protos.inference import grpc_service_pb2 as oip
from tests.inference_service.line import Line
from tests.inference_service.served_replica import ServedReplica, request

X = np.ones((1, 4), dtype=np.float32)
HOUR_MS = 3_600_000


def publish_of_an_hour_ago(line: Line, weight: float) -> int:
    trained = wall_time_ms() - HOUR_MS
    return line.publish(weight, step=30, change=lambda made: replace(made, step_time_ms=trained))


async def refused(replica: ServedReplica, **how: int | str) -> str:
    code, sentence = await replica.refusal(request(X, **how))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    return sentence


async def test_a_reply_names_version_step_and_age_since_the_train_step(replica, line):
    publish_of_an_hour_ago(line, 2.0)
    await replica.wait_serving(2)
    reply = await replica.oip.ModelInfer(request(X))
    told = provenance_in(reply.parameters)
    assert told is not None
    assert (told.version, told.train_step) == (2, 30)
    assert HOUR_MS <= told.age_ms < 2 * HOUR_MS
    assert (await replica.status()).models[0].age_ms >= told.age_ms


async def test_without_a_time_of_the_step_weights_age_from_their_publication(replica):
    reply = await replica.oip.ModelInfer(request(X))
    told = provenance_in(reply.parameters)
    assert told is not None
    assert 0 <= told.age_ms < HOUR_MS


async def test_a_trainer_whose_clock_is_ahead_makes_age_zero(replica, line):
    ahead = wall_time_ms() + HOUR_MS
    line.publish(2.0, change=lambda made: replace(made, step_time_ms=ahead))
    await replica.wait_serving(2)
    reply = await replica.oip.ModelInfer(request(X, max_staleness_ms=0))
    assert reply.parameters["headrace.age_ms"].int64_param == 0


async def test_older_weights_than_allowed_are_refused_and_newer_ones_answer(replica, line):
    publish_of_an_hour_ago(line, 2.0)
    await replica.wait_serving(2)
    sentence = await refused(replica, max_staleness_ms=HOUR_MS // 2)
    assert f"max_staleness_ms is {HOUR_MS // 2}" in sentence
    assert "'affine' version 2" in sentence
    assert (await replica.infer(X, max_staleness_ms=2 * HOUR_MS))[0] == 2
    # No refusal kept its slot: the next two loads need both.
    for weight in (3.0, 4.0):
        await replica.wait_serving(line.publish(weight))
    assert (await replica.infer(X, max_staleness_ms=HOUR_MS // 2))[0] == 4


async def test_a_pinned_version_that_is_too_old_is_refused(replica, line):
    publish_of_an_hour_ago(line, 2.0)
    await replica.wait_serving(2)
    await replica.wait_serving(line.publish(3.0))
    await refused(replica, version="2", max_staleness_ms=HOUR_MS // 2)


async def test_a_bound_that_is_no_number_is_refused_at_the_door(replica):
    code, sentence = await replica.refusal(request(X, max_staleness_ms="soon"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "milliseconds" in sentence


async def test_inside_a_stream_the_refusal_is_an_answer(replica, line):
    publish_of_an_hour_ago(line, 2.0)
    await replica.wait_serving(2)
    call = replica.oip.ModelStreamInfer(
        [request(X, request_id="a", max_staleness_ms=5), request(X, request_id="b")]
    )
    answers: dict[str, oip.ModelStreamInferResponse] = {}
    async for answer in call:
        answers[answer.infer_response.id] = answer
    told = answers["a"].infer_response.parameters
    assert told["headrace_reason"].string_param == "TOO_STALE"
    provenance = provenance_in(answers["b"].infer_response.parameters)
    assert provenance is not None
    assert provenance.version == 2


async def test_the_first_reply_of_a_new_version_is_measured_once(replica, line):
    def measured() -> float:
        name = "headrace_replica_first_reply_seconds_count"
        return REGISTRY.get_sample_value(name, {"model": "affine"}) or 0.0

    before = measured()
    await replica.infer(X)
    # Version 1 was made before this replica served the model.
    assert (await replica.status()).models[0].first_reply_ms == 0
    publish_of_an_hour_ago(line, 2.0)
    await replica.wait_serving(2)
    for _ in range(3):
        await replica.infer(X)
    assert (await replica.status()).models[0].first_reply_ms >= HOUR_MS
    assert measured() == before + 1


async def test_a_rollback_is_no_first_reply(replica, line):
    await replica.wait_serving(line.publish(2.0))
    await replica.infer(X)
    first = (await replica.status()).models[0].first_reply_ms
    line.rollback(1)
    await replica.wait_serving(1)
    await replica.infer(X)
    assert (await replica.status()).models[0].first_reply_ms == first
