"""Sequences at a replica called alone: states, order, versions, and every way one is refused."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
import torch

from chassis.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from chassis.infer import decoded_outputs, encoded_inputs, infer_request
from chassis.sequences import Step, add_step
from headrace import Model, Publisher
from inference_service.sequences import SequenceBounds, Sequences
from model_store.records import ProgramKind
from protos.inference import grpc_service_pb2 as oip
from tests.inference_service.sequence_models import (
    PickySumModel,
    RecurrentModel,
    RunningSum,
    RunningSumModel,
    WholeModel,
)
from tests.inference_service.served_replica import ServedReplica


class Asker:
    """One served replica of a model with states."""

    def __init__(self, served: ServedReplica, publisher: Publisher) -> None:
        self.served = served
        self.publisher = publisher

    async def step(self, x, sequence, *, start=False, end=False, version="") -> tuple:
        """The version and the outputs, by name."""
        made = request(x, sequence, start=start, end=end, version=version)
        reply = await self.served.oip.ModelInfer(made)
        return int(reply.model_version), decoded_outputs(reply)

    async def refusal(self, x, sequence, **how) -> tuple[grpc.StatusCode, str]:
        return await self.served.refusal(request(x, sequence, **how))

    def publish(self, module: torch.nn.Module) -> None:
        self.publisher.publish(module)


def request(x, sequence=None, *, start=False, end=False, version="") -> oip.ModelInferRequest:
    array = np.asarray(x, np.float32)
    made = infer_request(model="running", version=version, inputs=encoded_inputs({"x": array}))
    if sequence is not None:
        add_step(made.parameters, Step(sequence, start, end))
    return made


@pytest.fixture
def asker(store, store_url):
    @asynccontextmanager
    async def opened(model: Model, **settings: object) -> AsyncIterator[Asker]:
        publisher = Publisher(store, model)
        publisher.publish(model.build())
        async with ServedReplica(store_url, models="running", **settings) as served:
            await served.wait_ready()
            yield Asker(served, publisher)

    return opened


def rows(*values: float) -> np.ndarray:
    return np.array([[value, -value] for value in values], np.float32)


async def test_interleaved_sequences_carry_their_own_states(asker):
    async with asker(RunningSumModel()) as ask:
        manifest = ask.served.replica.models["running"].slots.serving.manifest
        assert manifest.program.kind is ProgramKind.EXPORTED
        for turn in range(1, 5):
            for sequence, factor in ((1, 1.0), ("1", 10.0)):
                _, out = await ask.step(rows(turn * factor), sequence, start=turn == 1)
                total = factor * sum(range(1, turn + 1))
                assert out.keys() == {"sum", "mean"}, "states never travel"
                np.testing.assert_allclose(out["sum"], rows(total))
                np.testing.assert_allclose(out["mean"], rows(total / turn))


async def test_a_recurrent_network_answers_as_over_the_whole_series(asker):
    draw = torch.Generator().manual_seed(3)
    series = torch.randn(6, 2, 3, generator=draw)
    module = RecurrentModel().build()
    hidden, wanted = torch.zeros(2, 5), []
    with torch.no_grad():
        for x in series:
            answer = module(x, hidden)
            hidden = answer["hidden"]
            wanted.append(answer["y"].numpy())
    async with asker(RecurrentModel()) as ask:
        for turn, x in enumerate(series):
            _, out = await ask.step(x.numpy(), "series", start=turn == 0)
            np.testing.assert_allclose(out["y"], wanted[turn], rtol=1e-5, atol=1e-6)


async def test_a_model_without_a_batch_dimension_carries_states_too(asker):
    async with asker(WholeModel()) as ask:
        await ask.step([1, 2, 3], 1, start=True)
        _, out = await ask.step([4, 5, 6], 1)
        np.testing.assert_array_equal(out["sum"], [21.0])


async def test_pipelined_requests_of_a_stream_are_computed_in_order(asker):
    async with asker(RunningSumModel()) as ask:
        requests = [request(rows(turn), 5, start=turn == 0, end=turn == 49) for turn in range(50)]
        replies = [each async for each in ask.served.oip.ModelStreamInfer(iter(requests))]
        sums = [decoded_outputs(each.infer_response)["sum"][0, 0] for each in replies]
        assert sums == [sum(range(turn + 1)) for turn in range(50)]
        code, _ = await ask.refusal(rows(1), 5)
        assert code is grpc.StatusCode.INVALID_ARGUMENT, "it ended"


async def test_refusals_name_what_was_expected(asker):
    async with asker(RunningSumModel(), max_sequences=2) as ask:
        code, text = await ask.served.refusal(request(rows(1)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT and "'sequence_id'" in text
        code, text = await ask.refusal(rows(1), 9)
        assert code is grpc.StatusCode.INVALID_ARGUMENT and "sequence 9 has not begun" in text
        await ask.step(rows(1, 2), 1, start=True)
        code, text = await ask.refusal(rows(1), 1)
        assert code is grpc.StatusCode.INVALID_ARGUMENT and "began with 2" in text
        code, text = await ask.refusal(rows(1), 1, version="9")
        assert code is grpc.StatusCode.FAILED_PRECONDITION and "runs on version 1" in text
        await ask.step(rows(1), 2, start=True)
        code, text = await ask.refusal(rows(1), 3, start=True)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED and "2 sequences" in text
        await ask.step(rows(1), 2, start=True, end=True)
        await ask.step(rows(1), 3, start=True)
        _, out = await ask.step(rows(3, 4), 1)
        np.testing.assert_array_equal(out["sum"], rows(4, 6))


async def test_a_start_begins_from_zeros_and_with_as_many_rows_as_it_has(asker):
    async with asker(RunningSumModel()) as ask:
        await ask.step(rows(1, 2), 1, start=True)
        _, out = await ask.step(rows(5), 1, start=True)
        np.testing.assert_array_equal(out["sum"], rows(5))
        _, out = await ask.step(rows(6), 1)
        np.testing.assert_array_equal(out["sum"], rows(11))


async def test_a_request_that_fails_changes_no_state_even_where_the_module_did(asker):
    async with asker(PickySumModel()) as ask:
        manifest = ask.served.replica.models["running"].slots.serving.manifest
        assert manifest.program.kind is ProgramKind.IMPORT_PATH
        await ask.step([[1, 2]], 1, start=True)
        code, _ = await ask.refusal([[-1, 5]], 1)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        _, out = await ask.step([[10, 10]], 1)
        np.testing.assert_array_equal(out["sum"], [[11, 12]])


async def test_a_sequence_keeps_its_version_through_publications_and_others_get_the_new(asker):
    async with asker(RunningSumModel(), sequence_hold_s=30) as ask:
        await ask.step(rows(1), "old", start=True)
        ask.publish(RunningSum(2.0))
        await ask.served.wait_serving(2)
        version, out = await ask.step(rows(1), "new", start=True)
        assert version == 2
        np.testing.assert_array_equal(out["sum"], rows(2))
        ask.publish(RunningSum(3.0))
        await ask.served.wait(lambda model: model.load_step == "hold")
        for turn in range(2, 5):
            version, out = await ask.step(rows(1), "old", end=turn == 4)
            assert version == 1
            np.testing.assert_array_equal(out["sum"], rows(turn))
        await ask.served.wait_serving(3)
        assert (await ask.step(rows(1), "new"))[0] == 2, "it stands by"


@pytest.mark.parametrize("hold_s", [0, 0.3])
async def test_a_load_waits_no_longer_than_it_may_and_the_sequence_is_lost(asker, hold_s):
    async with asker(RunningSumModel(), sequence_hold_s=hold_s) as ask:
        await ask.step(rows(1), 1, start=True)
        ask.publish(RunningSum(2.0))
        await ask.served.wait_serving(2)
        ask.publish(RunningSum(3.0))
        await ask.served.wait_serving(3)
        code, text = await ask.refusal(rows(1), 1)
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "sequence 1 is lost" in text and "start it anew" in text
        version, out = await ask.step(rows(7), 1, start=True)
        assert version == 3
        np.testing.assert_array_equal(out["sum"], rows(21))


async def test_an_idle_sequence_gives_its_memory_back(asker):
    async with asker(RunningSumModel(), sequence_idle_s=0.2) as ask:
        await ask.step(rows(1), 1, start=True)
        held = ask.served.replica.models["running"].sequences
        assert len(held) == 1
        await ask.served.wait(lambda _: len(held) == 0)
        code, text = await ask.refusal(rows(1), 1)
        assert code is grpc.StatusCode.INVALID_ARGUMENT and "idle for too long" in text


async def test_a_model_without_states_sticks_to_its_version(replica, line):
    x = np.ones((1, 4), np.float32)

    async def asked(sequence, **flags) -> str:
        made = infer_request(model="affine", inputs=encoded_inputs({"x": x}))
        add_step(made.parameters, Step(sequence, flags.get("start", False), False))
        return (await replica.oip.ModelInfer(made)).model_version

    assert await asked("s", start=True) == "1"
    line.publish(2.0)
    await replica.wait_serving(2)
    assert await asked("s") == "1"
    assert await asked("t", start=True) == "2"


def kept(**bounds) -> Sequences:
    return Sequences(SequenceBounds(**{"most": 2, "idle_s": 10.0, "hold_s": 30.0} | bounds))


def ran(sequences: Sequences, step: Step, caller: str = "", now: float = 0.0, states=(1,)) -> None:
    """A step that succeeds on version 4."""
    sequences.begin(caller, step)
    assert sequences.version(caller, step, 0, now) in (0, 4)
    found = sequences.enter(caller, step, version=4, rows=1, now=now)
    sequences.leave(caller, step, found, states, now)


def test_callers_do_not_meet():
    sequences = kept()
    ran(sequences, Step(1, True, False), "ann")
    with pytest.raises(InvalidArgument, match="has not begun"):
        sequences.version("bob", Step(1, False, False), 0, 0.0)
    assert sequences.version("ann", Step(1, False, False), 0, 0.0) == 4


def test_the_bound_and_room_that_returns():
    sequences = kept()
    for number in range(2):
        ran(sequences, Step(number, True, False), now=0.0)
    with pytest.raises(ResourceExhausted):
        sequences.version("", Step(9, True, False), 0, 9.0)
    assert sequences.version("", Step(9, True, False), 0, 10.0) == 0, "the idle ones are gone"
    assert len(sequences) == 0


def test_a_failed_end_and_a_running_step_keep_it():
    sequences = kept()
    ran(sequences, Step(1, True, False))
    ran(sequences, Step(1, False, True), states=None)
    assert len(sequences) == 1
    found = sequences.enter("", Step(1, False, True), version=4, rows=1, now=0.0)
    sequences.expire(100.0)
    assert len(sequences) == 1
    sequences.leave("", Step(1, False, True), found, (), 100.0)
    assert len(sequences) == 0


def test_a_load_waits_for_the_end_of_the_last_sequence_on_its_version_only():
    sequences = kept()
    ran(sequences, Step(1, True, False))
    sequences.wait_released(3)
    released = threading.Event()

    def load() -> None:
        sequences.wait_released(4)
        released.set()

    loader = threading.Thread(target=load)
    found = sequences.enter("", Step(1, False, True), version=4, rows=1, now=1e12)
    loader.start()
    assert not released.is_set()
    sequences.leave("", Step(1, False, True), found, (), 1e12)
    loader.join(20)
    assert released.is_set()


def test_states_that_come_after_the_load_gave_up_are_not_kept():
    sequences = kept(hold_s=0.0)
    sequences.begin("", Step(1, True, False))
    found = sequences.enter("", Step(1, True, False), version=4, rows=1, now=0.0)
    sequences.wait_released(4)
    sequences.leave("", Step(1, True, False), found, (1,), 1.0)
    assert found.states == ()
    with pytest.raises(FailedPrecondition, match="replaced"):
        sequences.version("", Step(1, False, False), 0, 1.0)


def test_stopping_wakes_a_load_that_waits():
    sequences = kept()
    sequences.enter("", Step(1, True, False), version=4, rows=1, now=0.0)
    loader = threading.Thread(target=sequences.wait_released, args=(4,))
    loader.start()
    sequences.stop()
    loader.join(20)
    assert not loader.is_alive()
