"""Triton's generate extension: flat JSON, one answer or a stream of events."""

import json

import pytest

from tests.rest.http import Client, ask, request_bytes

WORDS = "/v2/models/words"


def events(body: bytes) -> list[dict]:
    parts = body.decode().split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    return [json.loads(part.removeprefix("data: ")) for part in parts]


async def test_a_model_that_is_not_decoupled_answers_once(served):
    body = {"in": [1, 2, 3], "id": "q", "parameters": {"temperature": 0.5}, "other": "o"}
    answer = await ask(served.port, "POST", "/v2/models/flat/generate", body)
    assert answer.json == {
        "model_name": "flat",
        "model_version": "7",
        "id": "q",
        "out": [1.0, 2.0, 3.0],
    }
    [asked] = served.servicer.requests
    assert asked.parameters["temperature"].double_param == 0.5
    assert asked.parameters["other"].string_param == "o"


async def test_an_input_may_stand_within_the_parameters(served):
    body = {"text_input": "hi", "parameters": {"count": 1}}
    answer = await ask(served.port, "POST", f"{WORDS}/generate", body)
    assert answer.json == {"model_name": "words", "model_version": "7", "text_output": "hi"}


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_stream_has_an_event_for_each_answer(served, count):
    body = {"text_input": "hi", "count": count, "id": "q"}
    answer = await ask(served.port, "POST", f"{WORDS}/generate_stream", body)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    told = {"model_name": "words", "model_version": "7", "id": "q", "text_output": "hi"}
    assert events(answer.body) == [told] * count


async def test_answers_go_out_as_they_come(served):
    servicer = served.servicer
    async with Client(served.port) as client:
        body = json.dumps({"text_input": "hi", "count": 2}).encode()
        servicer.gate.clear()
        await client.send(request_bytes("POST", f"{WORDS}/generate_stream", body))
        await servicer.entered.wait()
        servicer.gate.set()
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"200 OK" in head
        assert b"hi" in await client.reader.readuntil(b"\n\n")
        assert b"hi" in await client.reader.readuntil(b"\n\n")


async def test_a_client_that_leaves_a_stream_ends_it(served):
    servicer = served.servicer
    async with Client(served.port) as client:
        body = json.dumps({"text_input": "hi", "count": 10**6}).encode()
        await client.send(request_bytes("POST", f"{WORDS}/generate_stream", body))
        await client.reader.readuntil(b"\n\n")
        assert not servicer.stream_ended.is_set()
    await servicer.stream_ended.wait()


@pytest.mark.parametrize("count", [0, 2])
async def test_generate_takes_exactly_one_answer(served, count):
    body = {"text_input": "hi", "count": count}
    answer = await ask(served.port, "POST", f"{WORDS}/generate", body)
    assert (answer.status, answer.reason) == (400, "NOT_ONE_ANSWER")


async def test_an_error_before_the_first_answer_is_a_status(served):
    body = {"text_input": "hi", "count": -1}
    for path in ("generate", "generate_stream"):
        answer = await ask(served.port, "POST", f"{WORDS}/{path}", body)
        assert (answer.status, answer.reason) == (400, "BAD_COUNT")
        assert answer.json["field"] == "inputs[1]"


async def test_an_error_after_the_first_answer_is_an_event(served):
    served.servicer.fails_at = 1
    body = {"text_input": "hi", "count": 2}
    answer = await ask(served.port, "POST", f"{WORDS}/generate_stream", body)
    first, error = events(answer.body)
    assert (answer.status, first["text_output"], error["code"]) == (200, "hi", "INTERNAL")
    assert b"secret" not in answer.body


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"text_input": ["a", "b"], "count": 1}, "BAD_SHAPE"),
        ({"text_input": [], "count": 1}, "BAD_SHAPE"),
        ({"text_input": [["a"], "b"], "count": 1}, "BAD_SHAPE"),
        ({"text_input": {"a": 1}, "count": 1}, "BAD_CONTENTS"),
        ({"text_input": "a", "count": "1"}, "BAD_CONTENTS"),
        ({"text_input": "a"}, "MISSING_INPUT"),
        ({"text_input": "a", "count": 1, "more": {}}, "BAD_PARAMETER"),
        ({"text_input": "a", "count": 1, "id": 1}, "BAD_JSON"),
        ({"text_input": "a", "count": 1, "parameters": 1}, "BAD_JSON"),
    ],
)
async def test_a_wrong_body_is_refused(served, body, reason):
    answer = await ask(served.port, "POST", f"{WORDS}/generate", body)
    assert (answer.status, answer.reason) == (400, reason)


async def test_open_sizes_follow_from_the_values(served):
    path = "/v2/models/echo_int32/generate"
    answer = await ask(served.port, "POST", path, {"in": [[1, 2], [3, 4]]})
    assert answer.json["out"] == [1, 2, 3, 4]
    assert list(served.servicer.requests[0].inputs[0].shape) == [1, 4]
