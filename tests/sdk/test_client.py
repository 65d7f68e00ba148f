"""Client and AsyncClient on the wire: what they send, what they make of what comes back."""

import json
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from chassis.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
    Unimplemented,
)
from headrace import AsyncClient, Client
from headrace.cli.main import app
from tests.sdk.oip_server import OipServer


@pytest.fixture
def server():
    with OipServer() as running:
        yield running


def x(*values: int) -> dict[str, np.ndarray]:
    return {"x": np.array(values, dtype=np.int64).reshape(-1, 1)}


OPTIONS = {
    "version": 7,
    "channel": "canary",
    "outputs": ["y"],
    "classes": {"z": 3},
    "priority": 2,
    "request_id": "mine",
    "parameters": {"a": True, "b": -5, "c": 0.5, "d": "text"},
}


def check_options(sent) -> None:
    assert sent.model_version == "7"
    assert [output.name for output in sent.outputs] == ["y", "z"]
    assert sent.outputs[1].parameters["classification"].int64_param == 3
    parameters = sent.parameters
    assert parameters["channel"].string_param == "canary"
    assert parameters["priority"].uint64_param == 2
    assert parameters["a"].WhichOneof("parameter_choice") == "bool_param"
    assert parameters["b"].int64_param == -5
    assert parameters["c"].double_param == 0.5
    assert parameters["d"].string_param == "text"


def test_predict_sends_its_options_and_names_the_version(server):
    with Client(server.address) as client:
        answer = client.predict("echo", x(4, 5), **OPTIONS)
    assert answer["y"].tolist() == [[4], [5]]
    assert (answer.model, answer.version, answer.request_id) == ("echo", 7, "mine")
    check_options(server.servicer.requests[0])


async def test_the_asyncio_client_sends_the_same(server):
    async with AsyncClient(server.address) as client:
        answer = await client.predict("echo", x(4), **OPTIONS)
    assert (answer["y"].tolist(), answer.request_id) == ([[4]], "mine")
    check_options(server.servicer.requests[0])


def test_the_earlier_of_timeout_and_deadline_counts(server):
    with Client(server.address) as client:
        client.predict("echo", x(1), timeout_s=5000, deadline=time.monotonic() + 600)
        client.predict("echo", x(1), timeout_s=600, deadline=time.monotonic() + 5000)
        # gRPC rounds a deadline up on its way.
        assert all(left < 610 for left in server.servicer.deadlines)
        with pytest.raises(DeadlineExceeded):
            client.predict("echo", x(1), deadline=time.monotonic())
    assert len(server.servicer.requests) == 2


@pytest.mark.parametrize("wrong", [{"priority": -1}, {"parameters": {"a": 2**63}}])
def test_an_option_out_of_range_is_named_before_anything_is_sent(server, wrong):
    with Client(server.address) as client, pytest.raises(InvalidArgument) as caught:
        client.predict("echo", x(1), **wrong)
    assert caught.value.reason == "BAD_PARAMETER"
    assert not server.servicer.requests


def test_generate_yields_each_response(server):
    with Client(server.address) as client:
        answers = list(client.generate("count", x(5), request_id="mine"))
        assert [int(answer["y"][0, 0]) for answer in answers] == [0, 1, 2, 3, 4]
        assert {(answer.version, answer.request_id) for answer in answers} == {(7, "mine")}
        assert list(client.generate("count", x(0))) == []
        assert [a["y"].tolist() for a in client.generate("echo", x(3))] == [[[3]]]


def test_leaving_a_generation_cancels_it(server):
    with Client(server.address) as client:
        responses = client.generate("count", x(10**9))
        assert int(next(responses)["y"][0, 0]) == 0
        responses.close()
        assert server.servicer.cancelled.wait(20)


async def test_generate_on_asyncio(server):
    async with AsyncClient(server.address) as client:
        answers = [int(answer["y"][0, 0]) async for answer in client.generate("count", x(4))]
        assert answers == [0, 1, 2, 3]
        with pytest.raises(InvalidArgument) as caught:
            [answer async for answer in client.generate("poison", x(1))]
        assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "raw_input_contents[0]")
        responses = client.generate("count", x(10**9))
        assert int((await anext(responses))["y"][0, 0]) == 0
        await responses.aclose()
        assert server.servicer.cancelled.wait(20)


def test_errors_of_a_generation_are_ours(server):
    with Client(server.address) as client:
        with pytest.raises(InvalidArgument, match="no such value"):
            list(client.generate("poison", x(1)))
        with pytest.raises(Unavailable) as caught:
            list(client.generate("broken", x(1)))
        assert caught.value.reason == "STREAM_ENDED"
        with pytest.raises(Unimplemented):
            client.predict("count", x(1))
        with pytest.raises(InvalidArgument) as refused:
            client.predict("poison", x(1))
        assert (refused.value.reason, refused.value.field) == ("BAD_VALUE", "raw_input_contents[0]")


def test_many_requests_share_a_stream(server):
    with Client(server.address) as client, client.stream(outstanding=8) as stream:
        futures = [stream.predict("echo", x(n), request_id=f"r{n}") for n in range(50)]
        bad = stream.predict("poison", x(1))
        for n, future in enumerate(futures):
            answer = future.result(20)
            assert (int(answer["y"][0, 0]), answer.request_id) == (n, f"r{n}")
        with pytest.raises(InvalidArgument, match="no such value"):
            bad.result(20)
        with pytest.raises(Unimplemented, match=r"generate\(\)"):
            stream.predict("count", x(3)).result(20)
        assert int(stream.predict("echo", x(51)).result(20)["y"][0, 0]) == 51
    assert {r.parameters["timeout"].int64_param for r in server.servicer.requests} <= set(
        range(1, 30_000_001)
    )
    with pytest.raises(FailedPrecondition, match="closed"):
        stream.predict("echo", x(1))


def test_a_stream_that_breaks_fails_what_waits_and_frees_its_places(server):
    with Client(server.address) as client:
        stream = client.stream(outstanding=2)
        waiting = stream.predict("broken", x(1))
        with pytest.raises(Unavailable, match="ended the stream"):
            waiting.result(20)
        stream.close()
        with pytest.raises(FailedPrecondition):
            stream.predict("echo", x(1))


def test_a_cancelled_stream_fails_what_waits(server):
    with Client(server.address) as client:
        stream = client.stream()
        waiting = stream.predict("slow", x(1))
        stream.cancel()
        with pytest.raises(Unavailable):
            waiting.result(20)
        server.servicer.release.set()


async def test_a_stream_on_asyncio(server):
    async with AsyncClient(server.address) as client, client.stream(outstanding=4) as stream:
        for n in range(20):
            answer = await stream.predict("echo", x(n))
            assert int(answer["y"][0, 0]) == n
        with pytest.raises(InvalidArgument):
            await stream.predict("poison", x(1))
    with pytest.raises(FailedPrecondition):
        await stream.predict("echo", x(1))


async def test_a_broken_stream_on_asyncio(server):
    async with AsyncClient(server.address) as client:
        stream = client.stream()
        with pytest.raises(Unavailable):
            await stream.predict("broken", x(1))
        await stream.cancel()


def sequence_parameters(request) -> dict[str, object]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in request.parameters.items()
    }


def test_a_sequence_marks_its_first_and_last_request(server):
    with Client(server.address) as client:
        sequence = client.sequence("echo", priority=1)
        sequence.predict(x(1))
        sequence.predict(x(2))
        sequence.predict(x(3), end=True)
        sequence.predict(x(4))
    first, second, third, fourth = map(sequence_parameters, server.servicer.requests)
    known = {"sequence_id": sequence.id, "priority": 1}
    assert first == known | {"sequence_start": True}
    assert second == known
    assert third == known | {"sequence_end": True}
    assert fourth == known | {"sequence_start": True}


async def test_a_sequence_that_failed_to_start_starts_again(server):
    async with AsyncClient(server.address) as client:
        sequence = client.sequence("poison")
        for _ in range(2):
            with pytest.raises(InvalidArgument):
                await sequence.predict(x(1))
    assert all(
        sequence_parameters(request)["sequence_start"] for request in server.servicer.requests
    )


def test_the_command_prints_one_answer_or_a_line_for_each_response(server):
    def lines(model: str, *flags: str) -> str:
        arguments = ["predict", model, "-i", "x=[4]", "--gateway", server.address, *flags]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    # A server that is not ours tells neither step nor age.
    told = {"train_step": None, "age_ms": None}
    record = {"model": "echo", "version": 7, **told, "outputs": {"y": [[4]]}}
    assert json.loads(lines("echo", "-o", "json", "--priority", "1")) == record
    assert server.servicer.requests[0].parameters["priority"].uint64_param == 1
    counted = [json.loads(line) for line in lines("count", "-o", "json").splitlines()]
    assert [record["outputs"]["y"] for record in counted] == [[[0]], [[1]], [[2]], [[3]]]
    assert lines("count").count("count version 7") == 4
