"""ModelStreamInfer as Triton's clients use it: many requests, answers as they finish."""

from __future__ import annotations

import asyncio
import queue
import urllib.request

import grpc
import numpy as np
import pytest
import tritonclient.grpc as wire

from tests.gateway.calls import ask, batches_of, rows, status_of, tensor, until, until_queued
from tests.gateway.streams import Stream, final_of, message, open_stream


async def test_each_request_of_a_stream_gets_its_own_rows(plain, connect):
    stream = Stream(connect(plain[0]))
    sent = {str(number): rows(1 + number % 5, number) for number in range(60)}
    for request_id, x in sent.items():
        stream.ask(request_id, x)
    stream.half_close()
    results = await stream.results(60)
    assert results.keys() == sent.keys()
    for request_id, result in results.items():
        np.testing.assert_array_equal(result.as_numpy("copy"), sent[request_id])
        assert result.get_response().model_version == "1" and final_of(result) is True
    assert await stream.rest() == [], "it ends after the last answer"


async def test_requests_of_a_stream_share_batches_with_others(replica, gateway, connect):
    fake = replica("--alpha-s", "0.05")
    client = connect(gateway(fake))
    stream = Stream(client)
    for number in range(20):
        stream.ask(str(number), rows(1, number))
    await asyncio.gather(stream.results(20), *(ask(client, rows(1, at)) for at in range(20)))
    assert sum((await batches_of(fake)).values()) < 10


async def test_answers_come_as_they_finish(replica, gateway, connect):
    slow, quick = replica("--alpha-s", "1.0"), replica("--models", "text")
    stream = Stream(connect(gateway(slow, quick)))
    stream.ask("slow")
    words = np.array([[b"a"]], object)
    stream.ask("quick", model_name="text", inputs=[tensor("t", words, "BYTES")])
    assert list(await stream.results(2)) == ["quick", "slow"]


async def test_an_error_stays_inside_the_stream(plain):
    requests = [
        message("unknown", model_name="nope"),
        message("shape", rows()[:, :3]),
        message("pinned", model_version="9"),
        message("good"),
    ]
    async with grpc.aio.insecure_channel(plain[0].address) as channel:
        replies = [reply async for reply in open_stream(channel, iter(requests))]
    by_id = {reply.infer_response.id: reply for reply in replies}
    found = {
        request_id: (
            reply.infer_response.model_name,
            reply.infer_response.parameters["headrace_code"].string_param,
            reply.infer_response.parameters["headrace_reason"].string_param,
        )
        for request_id, reply in by_id.items()
        if reply.error_message
    }
    assert found == {
        "unknown": ("nope", "NOT_FOUND", "MODEL_NOT_FOUND"),
        "shape": ("sum", "INVALID_ARGUMENT", "BAD_SHAPE"),
        "pinned": ("sum", "FAILED_PRECONDITION", "VERSION_NOT_LOADED"),
    }
    assert "known models" in by_id["unknown"].error_message
    assert by_id["good"].infer_response.model_version == "1"
    assert all(r.infer_response.parameters["triton_final_response"].bool_param for r in replies)


async def test_what_is_no_message_ends_the_stream_after_its_answers(plain):
    async with grpc.aio.insecure_channel(plain[0].address) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(
            iter([message("good").SerializeToString(), b"\xff\xff\xff"])
        )
        replies = []
        with pytest.raises(grpc.RpcError) as caught:
            async for reply in call:
                replies.append(reply)
    assert len(replies) == 1
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_deadlines_of_requests_and_of_the_stream(replica, gateway, connect):
    process = gateway(replica("--alpha-s", "30"))
    async with grpc.aio.insecure_channel(process.address) as channel:
        request = message("short")
        request.parameters["timeout"].int64_param = 50_000
        call = open_stream(channel)
        await call.write(request)
        reply = await call.read()
        assert reply.infer_response.id == "short"
        code = reply.infer_response.parameters["headrace_code"].string_param
        assert code == "DEADLINE_EXCEEDED"
        call.cancel()
        call = open_stream(channel, timeout=0.2)
        await call.write(message("none"))
        with pytest.raises(grpc.RpcError) as caught:
            while reply := await call.read():
                assert reply.error_message, "nothing but the request's own end may come first"
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def until_idle(process) -> None:
    async def idle() -> bool:
        status = await status_of(process)
        waiting = sum(model.queued_requests for model in status.models)
        return not waiting and all(not each.inflight_batches for each in status.endpoints)

    await until(idle)


async def test_a_cancelled_stream_withdraws_what_waits(replica, gateway, connect):
    process = gateway(replica("--alpha-s", "30"))
    stream = Stream(connect(process))
    for number in range(100):
        stream.ask(str(number), rows(1, number))

    async def all_there() -> bool:
        status = await status_of(process)
        under_way = sum(each.inflight_rows for each in status.endpoints)
        return under_way + status.models[0].queued_requests == 100

    await until(all_there)
    assert stream.replies.cancel()
    await until_queued(process, 0)
    (model,) = (await status_of(process)).models
    assert model.failed == 100, "those in flight are abandoned as well"


@pytest.mark.parametrize("cancel_requests", [True, False])
def test_tritons_threaded_client_streams_and_stops(replica, gateway, cancel_requests):
    fake = replica("--alpha-s", "0.2")
    process = gateway(fake)
    answers: queue.Queue = queue.Queue()
    with wire.InferenceServerClient(process.address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(10):
            x = tensor("x", rows(1, number), "FP32")
            client.async_stream_infer("sum", [x], request_id=str(number))
        if not cancel_requests:
            client.stop_stream()
            found = [answers.get_nowait() for _ in range(10)]
            assert {result.get_response().id for result, _ in found} == set(map(str, range(10)))
            return
        result, error = answers.get(timeout=10)
        assert error is None and final_of(result)
        client.async_stream_infer("sum", [tensor("x", rows(1, 9), "FP32")], request_id="late")
        client.stop_stream(cancel_requests=True)
    asyncio.run(until_idle(process))


def test_tritons_asynchronous_call_is_cancelled(replica, gateway):
    process = gateway(replica("--alpha-s", "1.0"))
    answers: queue.Queue = queue.Queue()
    with wire.InferenceServerClient(process.address) as client:
        x = [tensor("x", rows(), "FP32")]
        calls = [
            client.async_infer("sum", x, lambda result, error: answers.put((result, error)))
            for _ in range(3)
        ]

        async def gather() -> None:
            async def all_there() -> bool:
                # A call that is cancelled before the gateway has it counts for nothing there.
                status = await status_of(process)
                sent = sum(each.inflight_rows for each in status.endpoints)
                return sent + sum(each.queued_rows for each in status.models) == len(calls)

            await until(all_there)

        asyncio.run(gather())
        for call in calls:
            call.cancel()
        errors = [answers.get(timeout=10)[1] for _ in calls]
    assert {error.status() for error in errors} == {"StatusCode.CANCELLED"}

    async def counted() -> None:
        async def holds() -> bool:
            return (await status_of(process)).models[0].failed == 3

        await until(holds)

    asyncio.run(counted())


async def test_a_caller_that_does_not_read_is_not_read_from(replica, gateway):
    """Big answers: the gateway stops at its bound; the flow control of HTTP/2 does the rest."""
    fake = replica("--models", "sum", "--width", str(2**16))
    process = gateway(fake, max_stream_requests=8, max_batch_size=1)
    x = np.ones((1, 2**16), np.float32)
    async with grpc.aio.insecure_channel(process.address) as channel:
        call = open_stream(channel)
        # Left to itself: its writes end up waiting for the flow control.
        writer = asyncio.create_task(write_all(call, [message(str(n), x) for n in range(400)]))

        seen_counts: list[int] = []

        async def settled() -> bool:
            seen_counts.append((await status_of(process)).models[0].succeeded)
            last = seen_counts[-20:]
            return len(last) == 20 and 0 < last[0] == last[-1]

        await until(settled)
        assert seen_counts[-1] < 200, "most were never read"
        assert not writer.done()
        # Once it reads, everything is answered.
        seen = [reply.infer_response.id async for reply in call]
        assert sorted(map(int, seen)) == list(range(400))
        await writer


async def write_all(call, requests) -> None:
    for request in requests:
        await call.write(request)
    await call.done_writing()


async def test_a_caller_that_never_reads_and_leaves_frees_what_it_held(replica, gateway):
    fake = replica("--models", "sum", "--width", str(2**16), "--alpha-s", "0.01")
    process = gateway(fake, max_stream_requests=64, max_batch_size=1)
    x = np.ones((1, 2**16), np.float32)
    async with grpc.aio.insecure_channel(process.address) as channel:
        call = open_stream(channel)
        writer = asyncio.create_task(write_all(call, [message(str(n), x) for n in range(64)]))

        async def answering() -> bool:
            return (await status_of(process)).models[0].succeeded > 8

        await until(answering)
        call.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        await until_idle(process)

        async def all_ended() -> bool:
            (model,) = (await status_of(process)).models
            return model.failed > 0 and model.queued_requests == 0

        await until(all_ended)


def gauge(process, name: str) -> float:
    """A metric without labels, as the gateway exports it."""
    url = f"http://127.0.0.1:{process.serving['metrics_port']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as page:
        lines = page.read().decode().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name} ")]
    return float(line.split()[1])


async def test_streams_cancelled_at_every_stage_leave_nothing(replica, gateway):
    """Before a request, with some waiting, with some in flight, with answers unread."""
    process = gateway(replica("--alpha-s", "0.02"), metrics_port=0, max_batch_size=1)
    async with grpc.aio.insecure_channel(process.address) as channel:
        for stage in range(40):
            call = open_stream(channel)
            for number in range(stage % 4 * 5):
                await call.write(message(str(number)))
            if stage % 4 == 3:
                await call.read()
            elif stage % 2:
                await channel.channel_ready()
            call.cancel()

        async def nothing_left() -> bool:
            names = ("headrace_gateway_streams", "headrace_gateway_inflight_batches")
            return not any(gauge(process, name) for name in names)

        await until(nothing_left)
    await until_idle(process)
    assert not process.events("handler failed")


async def test_a_drain_ends_streams_after_their_answers(replica, gateway):
    process = gateway(replica("--alpha-s", "0.5"), drain_notice_s=0.05)
    async with grpc.aio.insecure_channel(process.address) as channel:
        call = open_stream(channel)
        await call.write(message("early"))
        await until_sent(process)
        process.send(15)
        await until_events(process, "draining")
        replies = []
        # Asks until one is refused, then stops; the stream ends without being half-closed.
        while not any(reply.error_message for reply in replies):
            await call.write(message("late"))
            replies.append(await call.read())
        while (reply := await call.read()) is not grpc.aio.EOF:
            replies.append(reply)
        assert await call.code() is grpc.StatusCode.OK
    answered = [r.infer_response.id for r in replies if not r.error_message]
    refused = [r for r in replies if r.error_message]
    assert "early" in answered
    reasons = {r.infer_response.parameters["headrace_reason"].string_param for r in refused}
    codes = {r.infer_response.parameters["headrace_code"].string_param for r in refused}
    assert (reasons, codes) == ({"DRAINING"}, {"UNAVAILABLE"})
    assert process.wait() == 0


async def until_sent(process) -> None:
    async def holds() -> bool:
        return any(each.inflight_batches for each in (await status_of(process)).endpoints)

    await until(holds)


async def until_events(process, name: str) -> None:
    async def holds() -> bool:
        return bool(process.events(name))

    await until(holds)
