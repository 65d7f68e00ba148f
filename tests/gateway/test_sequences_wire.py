"""Sequences and priorities through a real gateway, as Triton's clients ask for them."""

from __future__ import annotations

import asyncio
import queue
import urllib.request

import grpc
import numpy as np
import pytest
import tritonclient.grpc as wire
from tritonclient.grpc import service_pb2

from tests.gateway.calls import (
    Client,
    ask,
    code_of,
    reason_of,
    refused,
    tensor,
    until,
    until_queued,
)
from tests.gateway.processes import Running
from tests.gateway.streams import Stream, message

MODEL = ("--models", "running,sum")


def x(value: float) -> list[wire.InferInput]:
    return [tensor("x", np.array([[value]], np.float32), "FP32")]


async def add(client: Client, value: float, sequence: int | str, **flags) -> tuple[float, str]:
    """Adds to a running sum; the sum, and the version that computed it."""
    result = await client.infer("running", x(value), sequence_id=sequence, **flags)
    return float(result.as_numpy("total")[0, 0]), result.get_response().model_version


@pytest.fixture
def two(replica):
    """Replicas of two versions, so that an answer tells where it was computed."""
    return {str(version): replica(*MODEL, "--version", str(version)) for version in (1, 2)}


async def test_interleaved_sequences_over_two_replicas_keep_their_sums(two, gateway, connect):
    client = connect(gateway(*two.values()))
    ids = [1, "1", 2, "two", 2**62]
    homes = {}
    for number, sequence in enumerate(ids):
        total, homes[sequence] = await add(client, number, sequence, sequence_start=True)
        assert total == number
    for turn in range(1, 6):
        for number, sequence in enumerate(ids):
            answer = await add(client, turn * 10, sequence, sequence_end=turn == 5)
            assert answer == (number + 10 * sum(range(1, turn + 1)), homes[sequence])
    assert set(homes.values()) == {"1", "2"}, "sequences spread"
    for sequence in ids:
        error = await refused(add(client, 1, sequence))
        assert code_of(error) == "INVALID_ARGUMENT"
        assert f"sequence {sequence!r} has not begun" in error.message()


async def test_pipelined_requests_of_a_stream_are_computed_in_order(two, gateway, connect):
    stream = Stream(connect(gateway(*two.values())))
    for turn in range(40):
        for sequence in ("a", "b"):
            flags = {"sequence_start": turn == 0, "sequence_end": turn == 39}
            inputs = x(turn if sequence == "a" else -turn)
            stream.ask(
                f"{sequence}{turn}",
                model_name="running",
                inputs=inputs,
                sequence_id=sequence,
                **flags,
            )
    stream.half_close()
    results = await stream.results(80)
    order = list(results)
    assert [each for each in order if each[0] == "a"] == [f"a{turn}" for turn in range(40)]
    for turn in range(40):
        total = sum(range(turn + 1))
        assert results[f"a{turn}"].as_numpy("total") == [[total]]
        assert results[f"b{turn}"].as_numpy("total") == [[-total]]


def test_the_callback_stream_of_the_synchronous_client(two, gateway):
    answers: queue.Queue[tuple[object, object]] = queue.Queue()
    with wire.InferenceServerClient(gateway(*two.values()).address) as client:
        assert client.is_server_ready()
        first = client.infer("running", x(1), sequence_id="s", sequence_start=True)
        assert first.as_numpy("total") == [[1]]
        client.start_stream(lambda result, error: answers.put((result, error)))
        for turn in range(10):
            client.async_stream_infer(
                "running", x(turn), sequence_id=7, sequence_start=turn == 0, sequence_end=turn == 9
            )
        found = [answers.get(timeout=20) for _ in range(10)]
        client.stop_stream()
    assert [error for _, error in found] == [None] * 10
    sums = [float(result.as_numpy("total")[0, 0]) for result, _ in found]
    assert sums == [sum(range(turn + 1)) for turn in range(10)]


async def test_kill_9_of_its_replica_loses_a_sequence_which_can_start_anew(two, gateway, connect):
    client = connect(gateway(*two.values()))
    homes = {}
    for sequence in (1, 2):
        _, homes[sequence] = await add(client, 5, sequence, sequence_start=True)
    assert set(homes.values()) == {"1", "2"}
    await asyncio.to_thread(two[homes[1]].kill)
    error = await refused(add(client, 6, 1))
    assert code_of(error) == "FAILED_PRECONDITION"
    assert "sequence 1 is lost" in error.message() and "start it anew" in error.message()
    assert code_of(await refused(add(client, 6, 1))) == "FAILED_PRECONDITION"
    assert await add(client, 6, 2) == (11, homes[2]), "the other goes on"
    assert await add(client, 7, 1, sequence_start=True) == (7, homes[2])
    assert await add(client, 1, 1) == (8, homes[2])


async def test_a_replica_that_came_back_on_its_address_holds_no_old_sequence(
    replica, gateway, connect
):
    fake = replica(*MODEL)
    client = connect(gateway(fake))
    await add(client, 5, 1, sequence_start=True)
    await asyncio.to_thread(fake.kill)
    await asyncio.to_thread(replica, *MODEL, port=fake.port)
    error = await refused(add(client, 6, 1))
    assert code_of(error) == "FAILED_PRECONDITION" and "is lost" in error.message()

    async def starts() -> bool:
        return await add(client, 7, 1, sequence_start=True) == (7, "1")

    await until(starts)


async def test_a_start_begins_anew_and_idle_sequences_expire(replica, gateway, connect):
    process = gateway(replica(*MODEL), sequence_idle_s=0.5, metrics_port=0)
    client = connect(process)
    await add(client, 5, "s", sequence_start=True)
    assert await add(client, 2, "s", sequence_start=True) == (2, "1")
    assert await asyncio.to_thread(sequences_of, process) == 1

    async def expired() -> bool:
        return await asyncio.to_thread(sequences_of, process) == 0

    await until(expired)
    error = await refused(add(client, 1, "s"))
    assert code_of(error) == "INVALID_ARGUMENT" and "idle for too long" in error.message()
    assert await add(client, 3, "s", sequence_start=True) == (3, "1")


def sequences_of(process: Running) -> float:
    """How many sequences the gateway says it keeps."""
    url = f"http://127.0.0.1:{process.serving['metrics_port']}/metrics"
    with urllib.request.urlopen(url) as reply:
        lines = reply.read().decode().splitlines()
    [line] = [line for line in lines if line.startswith("headrace_gateway_sequences ")]
    return float(line.split()[1])


async def test_a_model_with_states_needs_a_sequence_and_others_may_have_one(connect, two, gateway):
    client = connect(gateway(*two.values()))
    error = await refused(client.infer("running", x(1)))
    assert code_of(error) == "INVALID_ARGUMENT" and "'sequence_id'" in error.message()
    row = [tensor("x", np.ones((1, 4), np.float32), "FP32")]
    versions = {
        (await client.infer("sum", row, sequence_id=3, sequence_start=turn == 0))
        .get_response()
        .model_version
        for turn in range(6)
    }
    assert len(versions) == 1, "it sticks"


async def test_an_input_at_fault_leaves_the_sequence_alive(two, gateway, connect):
    client = connect(gateway(*two.values()))
    _, home = await add(client, 1, 1, sequence_start=True)
    assert code_of(await refused(add(client, 666.0, 1))) == "INVALID_ARGUMENT"
    row = [tensor("x", np.ones((1, 3), np.float32), "FP32")]
    wrong = await refused(client.infer("running", row, sequence_id=1))
    assert code_of(wrong) == "INVALID_ARGUMENT"
    assert await add(client, 2, 1) == (3, home)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("priority", "string_param", "high"),
        ("priority", "double_param", 1.0),
        ("sequence_id", "bool_param", True),
        ("sequence_id", "int64_param", -1),
        ("sequence_id", "uint64_param", 2**63),
        ("sequence_id", "string_param", "x" * 129),
        ("sequence_start", "int64_param", 1),
        ("sequence_end", "string_param", "true"),
    ],
)
async def test_a_parameter_of_another_type_is_named(plain, name, field, value):
    request = message("r")
    request.parameters["sequence_id"].int64_param = 1
    setattr(request.parameters[name], field, value)
    async with grpc.aio.insecure_channel(plain[0].address) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(caught.value) == "BAD_PARAMETER" and repr(name) in caught.value.details()


async def test_no_id_is_no_sequence_and_odd_priorities_are_the_default(plain, connect):
    client = connect(plain[0])
    for options in ({"sequence_id": 0}, {"sequence_id": ""}, {"priority": 1}, {"priority": 99}):
        await ask(client, sequence_end=True, **options)


async def test_a_higher_priority_overtakes(replica, gateway, connect):
    process = gateway(replica("--alpha-s", "0.3", "--max-batch", "1"), max_inflight_batches=1)
    client = connect(process)
    done: list[str] = []
    row = [tensor("x", np.ones((1, 4), np.float32), "FP32")]

    async def asked(name: str, priority: int) -> None:
        await client.infer("sum", row, priority=priority)
        done.append(name)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asked("running", 0))
        for at, (name, priority) in enumerate((("low", 3), ("default", 0), ("high", 1))):
            await until_queued(process, at)
            tasks.create_task(asked(name, priority))
            await until_queued(process, at + 1)
    assert done == ["running", "high", "default", "low"]
