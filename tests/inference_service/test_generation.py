"""Decoupled models on a replica: responses, ends, errors, turns, pins, credits and bounds."""

from __future__ import annotations

import math
from dataclasses import replace

import grpc
import numpy as np
import pytest
import torch

from chassis.call import Call
from chassis.errors import InvalidArgument
from chassis.infer import encoded_inputs, infer_request
from headrace import Publisher
from headrace.probe import PROBED_RESPONSES, decode_probe, encode_probe
from inference_service.generation import Generation, Generations
from inference_service.slot import SlotState
from inference_service.work import Work
from model_store.publication import publish
from model_store.records import ProgramKind
from protos.inference import grpc_service_pb2 as oip
from tests.inference_service.line import Line
from tests.inference_service.served_replica import ServedReplica, request
from tests.inference_service.talker import (
    HEARD,
    Liar,
    Rows,
    Talker,
    Voice,
    answers,
    ask,
    each,
    final,
    refusal,
    speak,
    word_of,
)

ONE = np.ones((1, 4), dtype=np.float32)


@pytest.fixture(autouse=True)
def nothing_heard():
    HEARD.made.clear()
    HEARD.closed.clear()


@pytest.fixture
async def talker(store, store_url):
    speak(store, 1.0)
    async with ServedReplica(store_url, models="talker") as started:
        await started.wait_ready()
        HEARD.closed.clear()
        yield started


def direct(started: ServedReplica, *requests: oip.ModelInferRequest):
    """The replica's answers without a network that reads ahead."""
    return started.replica._servicer.ModelStreamInfer(each(*requests), Call())


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_the_last_response_says_so(talker, count):
    said = [(f"1.{n}", n == count) for n in range(1, count + 1)]
    found = await answers(talker.oip.ModelStreamInfer(), ask("end", count))
    assert found == (said or [("", True)])


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_the_end_is_a_response_of_its_own_where_that_is_asked_for(talker, count):
    said = [(f"1.{n}", False) for n in range(1, count + 1)]
    asked = ask("end", count, empty_final=True)
    assert await answers(talker.oip.ModelStreamInfer(), asked) == [*said, ("", True)]


async def test_responses_name_model_version_and_request(talker):
    call = talker.oip.ModelStreamInfer()
    await call.write(ask("who", 1, request_id="r-1"))
    response = (await call.read()).infer_response
    assert (response.model_name, response.model_version, response.id) == ("talker", "1", "r-1")
    assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [
        ("word", "BYTES", [1]),
        ("n", "INT64", [1]),
    ]
    some = ask("who", 1)
    some.outputs.add(name="n")
    await call.write(some)
    assert [o.name for o in (await call.read()).infer_response.outputs] == ["n"]


async def test_one_answer_of_a_model_that_gives_several_is_refused(talker):
    code, sentence = await talker.refusal(ask("one", 1))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "ask it by ModelStreamInfer" in sentence
    assert talker.replica.admission.requests == 0


async def test_other_answers_on_a_stream_are_final(replica):
    call = replica.oip.ModelStreamInfer()
    for empty_final in (False, True):
        made = request(ONE)
        made.parameters["triton_enable_empty_final_response"].bool_param = empty_final
        await call.write(made)
        assert final(await call.read())


@pytest.mark.parametrize(
    ("prompt", "code", "reason"),
    [
        ("raise", "INVALID_ARGUMENT", "MODEL_REFUSED_INPUT"),
        ("refuse", "INVALID_ARGUMENT", "TOO_TALKATIVE"),
        ("exit", "INVALID_ARGUMENT", "MODEL_REFUSED_INPUT"),
    ],
)
@pytest.mark.parametrize("empty_final", [False, True])
async def test_an_error_follows_the_responses_and_the_stream_goes_on(
    talker, prompt, code, reason, empty_final
):
    call = talker.oip.ModelStreamInfer()
    await call.write(ask(prompt, 5, empty_final=empty_final))
    replies = [await call.read() for _ in range(3)]
    assert [word_of(reply) for reply in replies] == ["1.1", "1.2", ""]
    assert [final(reply) for reply in replies] == [False, False, True]
    assert refusal(replies[-1]) == (code, reason)
    assert "secret" not in replies[-1].error_message
    await call.write(ask("next", 1))
    assert word_of(await call.read()) == "1.1"


async def test_a_response_that_was_not_promised_is_internal(store, store_url):
    speak(store, 1.0, Liar())
    async with ServedReplica(store_url, models="talker") as started:
        await started.wait_ready()
        call = started.oip.ModelStreamInfer()
        await call.write(ask("lie", 9))
        replies = [await call.read() for _ in range(6)]
        assert refusal(replies[-1]) == ("INTERNAL", "BAD_OUTPUT")
        assert [word_of(reply) for reply in replies[:-1]] == [f"1.{n}" for n in range(1, 6)]


async def test_a_generator_that_will_not_close_ends_all_the_same(talker):
    call = talker.oip.ModelStreamInfer()
    await call.write(ask("stubborn", -1))
    assert word_of(await call.read()) == "1.1"
    call.cancel()
    await talker.wait(lambda model: not model.slots[0].pins)
    assert await answers(talker.oip.ModelStreamInfer(), ask("after", 1)) == [("1.1", True)]


async def test_an_endless_answer_holds_up_neither_batches_nor_other_answers(store, store_url):
    speak(store, 1.0)
    Line(store).publish(1.0)
    async with ServedReplica(store_url, models="affine,talker") as started:
        await started.wait_ready()
        endless = started.oip.ModelStreamInfer()
        await endless.write(ask("endless", -1))
        for n in range(1, 20):
            assert word_of(await endless.read()) == f"1.{n}"
            assert (await started.infer(ONE))[0] == 1
        found = await answers(started.oip.ModelStreamInfer(), ask("short", 30))
        assert found[-1] == ("1.30", True)
        assert b"endless" not in HEARD.closed
        endless.cancel()


@pytest.mark.parametrize("empty_final", [False, True])
async def test_an_answer_that_nobody_takes_rests(talker, empty_final):
    slow = direct(talker, ask("slow", -1, empty_final=empty_final))
    assert word_of(await anext(slow)) == "1.1"
    # Twenty steps of another one: turns enough for the first to run away.
    await answers(talker.oip.ModelStreamInfer(), ask("quick", 20))
    assert HEARD.made[b"slow"] == 4
    assert word_of(await anext(slow)) == "1.2"
    await answers(talker.oip.ModelStreamInfer(), ask("quick", 20))
    assert HEARD.made[b"slow"] == 5
    assert talker.replica.admission.requests == 1
    await slow.aclose()
    await talker.wait(lambda model: not model.slots[0].pins)
    assert HEARD.closed.count(b"slow") == 1
    assert talker.replica.admission.requests == 0


async def test_a_caller_that_goes_away_ends_its_answers(talker):
    call = talker.oip.ModelStreamInfer()
    for n in range(5):
        await call.write(ask(f"gone {n}", -1))
    await call.read()
    call.cancel()
    await talker.wait(lambda model: not model.slots[0].pins)
    assert talker.replica.admission.requests == 0
    assert not talker.replica._servicer._streams
    assert all(name.startswith(b"gone") for name in HEARD.closed)


async def test_one_version_computes_the_whole_answer(talker, store):
    first = direct(talker, ask("across", 9))
    assert word_of(await anext(first)) == "1.1"
    speak(store, 2.0)
    await talker.wait_serving(2)
    assert await answers(talker.oip.ModelStreamInfer(), ask("new", 1)) == [("2.1", True)]
    rest = [reply async for reply in first]
    assert [word_of(reply) for reply in rest] == [f"1.{n}" for n in range(2, 10)]
    assert {reply.infer_response.model_version for reply in rest} == {"1"}


async def test_a_load_waits_for_an_answer_and_no_longer_than_it_may_take(store, store_url):
    speak(store, 1.0)
    async with ServedReplica(store_url, models="talker", max_generation_s=1.0) as started:
        await started.wait_ready()
        held = direct(started, ask("held", -1))
        await anext(held)
        speak(store, 2.0)
        await started.wait_serving(2)
        speak(store, 3.0)
        status = await started.wait(lambda model: model.slots[0].state == SlotState.LOADING.value)
        assert status.slots[0].pins == 1
        await started.wait_serving(3)
        replies = [reply async for reply in held]
        assert refusal(replies[-1]) == ("DEADLINE_EXCEEDED", "GENERATION_TOO_LONG")
        assert final(replies[-1])
        assert HEARD.closed.count(b"held") == 1


async def test_a_deadline_ends_an_answer_under_way(talker):
    call = direct(talker, ask("late", -1, timeout=500_000))
    replies = [await anext(call)]
    # It rests from here on, until its time is over.
    await talker.wait(lambda _: b"late" in HEARD.closed)
    replies += [reply async for reply in call]
    assert refusal(replies[-1]) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert 1 <= len(replies[:-1]) <= 4


async def test_a_stream_reads_no_more_than_it_may_have_open(store, store_url):
    speak(store, 1.0)
    read = []

    async def greedy():
        for n in range(20):
            read.append(n)
            yield ask(f"{n}", 1)

    async with ServedReplica(store_url, models="talker", max_stream_requests=3) as started:
        await started.wait_ready()
        stream = started.replica._servicer.ModelStreamInfer(greedy(), Call())
        taken = 0
        async for _reply in stream:
            taken += 1
            # The answer at hand is taken only when the next one is asked for.
            assert len(read) <= taken - 1 + 3
        assert taken == 20


async def test_refusals_count_as_open_too(talker):
    talker.replica._servicer._max_stream_requests = 2
    read = []

    async def wrong():
        for n in range(8):
            read.append(n)
            yield request(ONE, model="nobody")

    taken = 0
    async for reply in talker.replica._servicer.ModelStreamInfer(wrong(), Call()):
        taken += 1
        assert refusal(reply) == ("NOT_FOUND", "MODEL_NOT_FOUND")
        assert len(read) <= taken - 1 + 2
    assert taken == 8


async def test_statistics_count_responses_by_their_place(talker):
    await answers(talker.oip.ModelStreamInfer(), ask("a", 3), ask("b", 1, empty_final=True))
    await answers(talker.oip.ModelStreamInfer(), ask("raise", 9), ask("none", 0))
    await answers(talker.oip.ModelStreamInfer(), ask("long", 80))
    gone = talker.oip.ModelStreamInfer()
    await gone.write(ask("gone", -1))
    await gone.read()
    gone.cancel()
    await talker.wait(lambda model: not model.slots[0].pins)
    (found,) = (await talker.oip.ModelStatistics(oip.ModelStatisticsRequest())).model_stats
    assert (found.inference_count, found.execution_count) == (4, 4)
    assert found.inference_stats.fail.count == 2
    by_place = found.response_stats
    assert by_place["0"].success.count == 5
    assert by_place["0"].compute_infer.ns > 0
    assert by_place["0"].empty_response.count == 1
    assert by_place["1"].empty_response.count == 1
    assert by_place["2"].fail.count == 1
    assert by_place["64"].success.count >= 16
    assert sum(place.cancel.count for place in by_place.values()) == 1
    assert len(by_place) == 65


async def test_rows_are_answered_together(store, store_url):
    speak(store, 1.0, Rows())
    inputs = {
        "prompt": np.array([[b"x"], [b"y"], [b"z"]], dtype=np.object_),
        "count": np.array([[1], [2], [1]], dtype=np.int32),
    }
    made = infer_request(model="talker", inputs=encoded_inputs(inputs), outputs=())
    async with ServedReplica(store_url, models="talker") as started:
        await started.wait_ready()
        call = started.oip.ModelStreamInfer()
        await call.write(made)
        for last in (False, True):
            reply = await call.read()
            assert list(reply.infer_response.outputs[0].shape) == [3, 1]
            assert final(reply) is last


async def test_a_drain_waits_for_answers(talker):
    call = talker.oip.ModelStreamInfer()
    await call.write(ask("draining", 500))
    assert word_of(await call.read()) == "1.1"
    await talker.replica.drain()
    replies = [await call.read() for _ in range(499)]
    assert word_of(replies[-1]) == "1.500"
    assert final(replies[-1])
    assert await call.read() is grpc.aio.EOF


async def test_answers_end_with_the_replica(store, store_url):
    speak(store, 1.0)
    async with ServedReplica(store_url, models="talker", drain_s=0.0) as started:
        await started.wait_ready()
        endless = direct(started, ask("endless", -1))
        await anext(endless)
    assert HEARD.closed[-1] == b"endless"
    await endless.aclose()


def test_a_version_brings_its_import_path_and_the_first_few_responses(store, follower_of_talker):
    speak(store, 1.5)
    manifest = store.manifest("talker", 1)
    assert manifest.program.kind is ProgramKind.IMPORT_PATH
    assert manifest.signature.decoupled
    golden = decode_probe(store.read_blob(manifest.probe.digest), manifest.signature)
    assert [word.item() for word, _ in golden.answers] == [b"1.5.1", b"1.5.2", b"1.5.3", b"1.5.4"]
    follower_of_talker.wait_serving(1)
    # Twice by the publisher, by the warm-up and by the probe.
    assert HEARD.closed == [b"golden"] * 4
    assert HEARD.made == {b"golden": PROBED_RESPONSES}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda answers: answers[:3], "give 4 responses; the golden ones are 3"),
        (lambda answers: [*answers[:3], answers[0]], "holds other bytes than the golden one"),
        (
            lambda answers: [*answers[:3], (answers[3][0], torch.tensor([9]))],
            "differs from the golden one by up to 5",
        ),
    ],
)
def test_other_responses_than_the_golden_ones_are_refused(store, follower_of_talker, change, words):
    speak(store, 1.0)
    manifest = store.manifest("talker", 1)
    golden = decode_probe(store.read_blob(manifest.probe.digest), manifest.signature)
    content = encode_probe(manifest.signature, golden.inputs, change(golden.answers))
    probe = replace(manifest.probe, digest=store.put_blob(content), size_bytes=len(content))
    publish(store, replace(manifest, version=0, probe=probe, commit_id=""))
    failure = follower_of_talker.wait_failed(2).failures[0]
    assert failure.reason == "PROBE_FAILED"
    assert words in failure.message


def test_a_publisher_that_knows_the_name_alone_records_no_responses(store, follower_of_talker):
    speak(store, 1.0)
    with Publisher(store, "talker") as publisher:
        publisher.publish(Voice(2.0))
    manifest = store.manifest("talker", 2)
    golden = decode_probe(store.read_blob(manifest.probe.digest), manifest.signature)
    assert golden.answers is None
    assert golden.inputs[0].tolist() == [b"golden"]
    follower_of_talker.wait_serving(2)


def test_a_decoupled_model_is_not_exported(store, follower):
    speak(store, 1.0)
    manifest = store.manifest("talker", 1)
    numbers = replace(
        manifest.signature,
        inputs=manifest.signature.inputs[1:],
        outputs=manifest.signature.outputs[1:],
    )
    program = replace(manifest.program, kind=ProgramKind.EXPORTED)
    other = replace(manifest, program=program, signature=numbers, probe=None, commit_id="")
    publish(store, replace(other, version=0, epoch=0, model="affine"))
    assert follower.wait_failed(1).failures[0].reason == "DECOUPLED_PROGRAM"


def test_a_model_without_generate_cannot_be_published(store):
    class Silent(Talker):
        generate = Talker.__mro__[1].generate

    model = Silent()
    with pytest.raises(InvalidArgument, match="importable module"), Publisher(store, model) as p:
        p.publish(model.build())


class _Said:
    """A generation of nothing but its state."""

    def __init__(self, **work: object) -> None:
        fields = {"served": None, "signature": None, "request_id": "", "inputs": None, "wanted": ()}
        self.work = Work(**(fields | work))
        self.ahead = 0
        self.give_up_at = math.inf

    ends_at = Generation.ends_at


def test_turns_go_round():
    generations = Generations(most_ahead=2)
    said = [_Said() for _ in range(3)]
    assert generations.wait_s(0.0) is None
    for one in said:
        generations.add(one)
    order = []
    for _ in range(6):
        one = generations.take()
        order.append(said.index(one))
        generations.put_back(one)
    assert order == [0, 1, 2, 0, 1, 2]
    assert generations.wait_s(0.0) == 0.0
    assert len(generations) == 3


def test_who_is_ahead_rests_until_woken():
    generations = Generations(most_ahead=2)
    one, other = _Said(), _Said()
    one.ahead = 2
    generations.put_back(one)
    assert generations.take() is None
    generations.wake(other.work)
    assert generations.take() is None
    generations.wake(one.work)
    assert generations.take() is None, "still too far ahead"
    one.ahead = 1
    generations.wake(one.work)
    assert generations.take() is one
    one.ahead, one.work.abandoned = 9, True
    generations.put_back(one)
    assert generations.take() is one, "nobody waits: it is to end, not to rest"


def test_who_rests_too_long_is_overdue():
    generations = Generations(most_ahead=1)
    soon, later = _Said(deadline=5.0), _Said(deadline=9.0)
    for one in (soon, later):
        one.ahead = 1
        generations.put_back(one)
    assert generations.wait_s(2.0) == 3.0
    assert generations.take_overdue(5.0) == []
    assert generations.take_overdue(5.5) == [soon]
    assert generations.wait_s(5.5) == 3.5
    assert generations.take_all() == [later]
    assert generations.wait_s(5.5) is None
