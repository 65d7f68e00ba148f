"""Decoupled models through the gateway: any number of responses to a request, in order."""

from __future__ import annotations

import asyncio
import queue
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as wire
from tritonclient.grpc import service_pb2

from tests.gateway.calls import ask, code_of, refused, rows, status_of, tensor, until
from tests.gateway.processes import Running
from tests.gateway.streams import FINAL, Stream, final_of, open_stream


def n_of(count: int) -> list[Any]:
    return [tensor("n", np.array([[count]], np.int32), "INT32")]


def counting(request_id: str, count: int, **parameters: Any) -> Any:
    """A bare request for `count` responses; parameters are bools or microseconds."""
    made = service_pb2.ModelInferRequest(model_name="count", id=request_id)
    made.inputs.add(name="n", datatype="INT32", shape=[1, 1])
    made.raw_input_contents.append(np.int32(count).tobytes())
    for name, value in parameters.items():
        field = "bool_param" if isinstance(value, bool) else "int64_param"
        setattr(made.parameters[name], field, value)
    return made


def told(reply: Any) -> str:
    """A reply in short: `id:token`, `id:END` or `id:CODE REASON`, with `!` on the final one."""
    response = reply.infer_response
    what = "END"
    if reply.error_message:
        parameters = response.parameters
        code, reason = parameters["headrace_code"], parameters["headrace_reason"]
        what = f"{code.string_param} {reason.string_param}"
    elif response.outputs:
        what = str(np.frombuffer(response.raw_output_contents[0], np.int32)[0])
    final = FINAL in response.parameters and response.parameters[FINAL].bool_param
    return f"{response.id}:{what}" + "!" * final


async def all_told(process: Running, *requests: Any) -> list[str]:
    """What comes on one stream for these requests, until it ends."""
    async with grpc.aio.insecure_channel(process.address) as channel:
        return [told(reply) async for reply in open_stream(channel, iter(requests))]


async def generating(fake: Running) -> tuple[int, int]:
    """Generations under way at a fake replica, and tokens it made so far."""
    async with grpc.aio.insecure_channel(fake.address) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelStatistics",
            request_serializer=service_pb2.ModelStatisticsRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStatisticsResponse.FromString,
        )
        reply = await call(service_pb2.ModelStatisticsRequest())
    (stats,) = (each for each in reply.model_stats if each.name == "count")
    return stats.execution_count, stats.inference_count


async def until_generating(fake: Running, count: int) -> None:
    async def holds() -> bool:
        return (await generating(fake))[0] == count

    await until(holds)


async def test_the_last_response_is_marked_and_none_is_empty(plain):
    assert await all_told(plain[0], counting("a", 3)) == ["a:0", "a:1", "a:2!"]
    assert await all_told(plain[0], counting("a", 1)) == ["a:0!"]


async def test_a_caller_that_asks_gets_the_end_by_itself(plain):
    asked = {"triton_enable_empty_final_response": True}
    found = await all_told(plain[0], counting("a", 2, **asked))
    assert found == ["a:0", "a:1", "a:END!"]


@pytest.mark.parametrize("asked", [True, False])
async def test_a_request_without_responses_still_ends(plain, asked):
    parameters = {"triton_enable_empty_final_response": asked}
    assert await all_told(plain[0], counting("a", 0, **parameters)) == ["a:END!"]


async def test_requests_of_a_stream_are_answered_side_by_side(replica, gateway, connect):
    process = gateway(replica("--models", "count,sum", "--token-s", "0.02"))
    stream = Stream(connect(process))
    for name in ("a", "b", "c"):
        stream.ask(name, model_name="count", inputs=n_of(5))
    stream.ask("plain")
    stream.half_close()
    answers = [result for result, error in await stream.rest() if error is None]
    order = [answer.get_response().id for answer in answers]
    assert order[:15] != sorted(order[:15]), "no generation waits for another"
    for name in ("a", "b", "c"):
        own = [answer for answer in answers if answer.get_response().id == name]
        assert [int(answer.as_numpy("token")[0, 0]) for answer in own] == list(range(5))
        assert [bool(final_of(answer)) for answer in own] == [False] * 4 + [True]
        assert {answer.get_response().model_version for answer in own} == {"1"}
    assert order.count("plain") == 1


def test_tritons_threaded_client_gets_the_tokens(plain):
    answers: queue.Queue = queue.Queue()
    with wire.InferenceServerClient(plain[0].address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(
            "count", n_of(4), request_id="r", enable_empty_final_response=True
        )
        client.stop_stream()
    found = [answers.get_nowait()[0] for _ in range(answers.qsize())]
    tokens = [int(each.as_numpy("token")[0, 0]) for each in found if each.get_response().outputs]
    assert tokens == [0, 1, 2, 3]
    assert final_of(found[-1]) and not found[-1].get_response().outputs


async def test_an_output_subset_of_each_response(plain, connect):
    stream = Stream(connect(plain[0]))
    wanted = [wire.InferRequestedOutput("token")]
    stream.ask("r", model_name="count", inputs=n_of(2), outputs=wanted)
    stream.half_close()
    for result, _ in await stream.rest():
        assert [output.name for output in result.get_response().outputs] == ["token"]


async def test_a_unary_call_is_not_for_a_decoupled_model(plain, connect):
    error = await refused(connect(plain[0]).infer("count", n_of(2)))
    assert code_of(error) == "UNIMPLEMENTED" and "ModelStreamInfer" in error.message()
    config = (await connect(plain[0]).get_model_config("count")).config
    assert config.model_transaction_policy.decoupled


async def test_an_error_after_responses_ends_the_request_and_not_the_stream(plain):
    found = await all_told(plain[0], counting("bad", -2), counting("good", 1))
    bad = [each for each in found if each.startswith("bad")]
    assert bad == ["bad:0", "bad:1", "bad:INVALID_ARGUMENT BAD_COUNT!"]
    assert "good:0!" in found


@pytest.mark.parametrize("code", ["UNAVAILABLE", "INTERNAL"])
async def test_a_failure_before_the_first_response_is_tried_elsewhere(replica, gateway, code):
    faulty = replica("--models", "count", "--fail", code, "--fail-times", "9")
    process = gateway(faulty, replica("--models", "count"))
    requests = [counting(str(at), 2) for at in range(4)]
    found = await all_told(process, *requests)
    assert sorted(found) == sorted(line for at in range(4) for line in (f"{at}:0", f"{at}:1!"))


async def test_a_replica_that_dies_before_the_first_response_is_replaced(replica, gateway):
    dying = replica("--models", "count", "--exit-after", "0")
    process = gateway(dying, replica("--models", "count"))
    found = await all_told(process, *(counting(str(at), 2) for at in range(4)))
    assert sorted(found) == sorted(line for at in range(4) for line in (f"{at}:0", f"{at}:1!"))


async def test_a_replica_that_dies_after_the_first_response_fails_the_request(replica, gateway):
    process = gateway(replica("--models", "count", "--exit-after", "2"))
    asked = {"triton_enable_empty_final_response": True}
    found = await all_told(process, counting("a", 5, **asked))
    assert found[:-1] == ["a:0", "a:1"][: len(found) - 1]
    assert found[-1].startswith("a:UNAVAILABLE ") and found[-1].endswith("!")


async def test_a_server_that_marks_nothing_ends_by_closing(replica, gateway):
    process = gateway(replica("--models", "count", "--no-marks"))
    assert await all_told(process, counting("a", 3)) == ["a:0", "a:1", "a:2!"]


async def test_a_cancelled_stream_cancels_at_the_replica(replica, gateway, connect):
    fake = replica("--models", "count", "--token-s", "0.01")
    process = gateway(fake)
    stream = Stream(connect(process))
    stream.ask("r", model_name="count", inputs=n_of(10**6))
    assert int((await stream.next())[0].as_numpy("token")[0, 0]) == 0
    assert stream.replies.cancel()
    await until_generating(fake, 0)
    stats = (await connect(process).get_inference_statistics("count")).model_stats
    assert sum(r.cancel.count for each in stats for r in each.response_stats.values()) == 1
    assert [each.inference_stats.fail.count for each in stats] == [1]


def test_tritons_threaded_client_cancels_at_the_replica(replica, gateway):
    fake = replica("--models", "count", "--token-s", "0.01")
    process = gateway(fake)
    answers: queue.Queue = queue.Queue()
    with wire.InferenceServerClient(process.address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("count", n_of(10**6))
        assert answers.get(timeout=10)[1] is None
        client.stop_stream(cancel_requests=True)
    asyncio.run(until_generating(fake, 0))


async def test_a_deadline_ends_a_generation_here_and_at_the_replica(replica, gateway):
    fake = replica("--models", "count", "--token-s", "0.01")
    process = gateway(fake)
    found = await all_told(process, counting("r", 10**6, timeout=200_000))
    assert found[-1] == "r:DEADLINE_EXCEEDED DEADLINE_EXCEEDED!"
    assert found[:-1] == [f"r:{at}" for at in range(len(found) - 1)]
    await until_generating(fake, 0)


async def test_a_stalled_generation_ends_and_takes_nobody_with_it(replica, gateway, connect):
    fake = replica("--models", "count,sum", "--stall-at", "2")
    process = gateway(fake, attempt_timeout_s=0.3)
    asked = {"triton_enable_empty_final_response": True}
    found = await all_told(process, counting("r", 5, **asked))
    assert found == ["r:0", "r:1", "r:UNAVAILABLE REPLICA_LOST!"]
    await until_generating(fake, 0)
    await ask(connect(process), rows())
    assert not [event for event in process.events("endpoint") if event["state"] == "ejected"]


async def test_generations_take_no_seats_of_batches_and_have_their_own(replica, gateway, connect):
    fake = replica("--models", "count,sum", "--token-s", "0.01")
    process = gateway(fake, max_inflight_generations=2, max_inflight_batches=1)
    client = connect(process)
    stream = Stream(client)
    for number in range(5):
        stream.ask(str(number), model_name="count", inputs=n_of(10**6))
    await until_generating(fake, 2)
    await ask(client, rows())

    async def waiting() -> bool:
        models = {each.model: each for each in (await status_of(process)).models}
        return models["count"].queued_requests == 3

    await until(waiting)
    assert (await generating(fake))[0] == 2
    stream.replies.cancel()
    await until_generating(fake, 0)


async def test_a_caller_that_does_not_read_holds_the_replica_up(replica, gateway):
    """Its attempt outlives the attempt timeout: that the replica waits is not its fault."""
    fake = replica("--models", "count", "--pad", str(2**16))
    process = gateway(fake, max_stream_responses=2, attempt_timeout_s=0.3)
    async with grpc.aio.insecure_channel(process.address) as channel:
        call = open_stream(channel, iter([counting("r", 600)]))
        made: list[int] = []

        async def settled() -> bool:
            made.append((await generating(fake))[1])
            return len(made) > 40 and made[-40] == made[-1] > 0

        await until(settled)
        assert made[-1] < 400, "the rest is not made until it is read"
        found = [told(reply) async for reply in call]
    assert found == [*(f"r:{at}" for at in range(599)), "r:599!"]


async def test_a_drain_lets_generations_finish(replica, gateway):
    process = gateway(replica("--models", "count", "--token-s", "0.05"))
    async with grpc.aio.insecure_channel(process.address) as channel:
        call = open_stream(channel)
        await call.write(counting("r", 10))
        found = [told(await call.read())]
        process.send(15)
        while (reply := await call.read()) is not grpc.aio.EOF:
            found.append(told(reply))
        assert await call.code() is grpc.StatusCode.OK
    assert found == [*(f"r:{at}" for at in range(9)), "r:9!"]
    assert process.wait() == 0


async def test_statistics_tell_responses(replica, gateway, connect):
    process = gateway(replica("--models", "count"))
    await all_told(process, counting("a", 3), counting("b", 1), counting("c", 0))
    await all_told(process, counting("d", -1))
    (stats,) = (await connect(process).get_inference_statistics("count", "1")).model_stats
    by_index = stats.response_stats
    assert [by_index[str(at)].success.count for at in range(3)] == [3, 1, 1]
    assert by_index["0"].empty_response.count == 1 and by_index["1"].fail.count == 1
    assert stats.inference_stats.success.count == 3 and stats.inference_stats.fail.count == 1
    assert stats.inference_stats.queue.count == 3
