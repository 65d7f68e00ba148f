"""The two rooms and their door without a network: a carrier that obeys, a clock that stands."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    HeadraceError,
    InvalidArgument,
    Unavailable,
)
from chassis.infer import infer_request
from chassis.sequences import Step, add_step
from chassis.tensors import Signature, TensorSpec
from gateway.catalog import ServedModel
from gateway.dispatch.comparison import Comparison
from gateway.dispatch.delivery import Failure, OnOutcome, failure_of, lost
from gateway.dispatch.dispatcher import Dispatcher, Spans
from gateway.ingress.batch import Batch, BatchReply
from gateway.ingress.door import Ingress, refusal
from gateway.ingress.objective import NO_OBJECTIVES, Objectives
from gateway.ingress.request import Request
from gateway.policy.balance import Balance
from gateway.policy.batching import ADMIT, Admit, Backlog, Reject
from gateway.policy.overload import Stage
from gateway.policy.retry import Fault, RetryPolicy
from gateway.policy.schedule import Schedule
from gateway.policy.sequences import Sequences
from gateway.policy.speed import Speeds
from gateway.statistics import Ledger

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "FP32", (-1, 1)),), 4)
MODEL = ServedModel.of("m", SIGNATURE, 0)


@dataclass
class Carrier:
    """Keeps what was sent until a test says how it ended."""

    sent: dict[int, tuple[str, Batch, OnOutcome]] = field(default_factory=dict)
    log: list[tuple[str, int]] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)

    def send(self, address, delivery_id, batch, timeout_s, done) -> None:
        assert timeout_s > 0
        self.sent[delivery_id] = (address, batch, done)
        self.log.append((address, batch.rows))

    def abandon(self, address, delivery_id) -> None:
        self.abandoned.append(address)
        self.fail(delivery_id, lost())

    def answer(self, delivery_id: int) -> None:
        """Twice each value, as version 1 would."""
        _, batch, done = self.sent.pop(delivery_id)
        (_, _, shape, raw), *_ = batch.tensors
        doubled = (np.frombuffer(raw, np.float32) * 2).tobytes()
        done(delivery_id, BatchReply("1", [(SIGNATURE.outputs[0], shape, doubled)], 0.01))

    def fail(self, delivery_id: int, failure: Failure) -> None:
        _, _, done = self.sent.pop(delivery_id)
        done(delivery_id, failure)


class House:
    """A dispatcher with its door, on a clock of the test's."""

    def __init__(
        self,
        *addresses: str,
        max_inflight: int = 1,
        hedging: bool = True,
        objectives: Objectives = NO_OBJECTIVES,
        late_priority: int = 0,
        max_requests: int = 100,
        comparison: Comparison | None = None,
    ) -> None:
        self.now = 0.0
        self.hedging = hedging
        self.objectives = objectives
        self.retry = RetryPolicy(max_attempts=3)
        self.carrier = Carrier()
        self.balance = Balance(max_inflight=max_inflight)
        self.ledger = Ledger()
        self.sequences = Sequences(max_sequences=4, idle_s=50.0, origin=3)
        self.ingress = Ingress(
            Backlog(max_requests=max_requests, max_bytes=10**6),
            self.ledger,
            self.sequences,
            late_priority=late_priority,
        )
        self.dispatcher = Dispatcher(
            self.ingress,
            self.carrier,
            balance=self.balance,
            generations=Balance(max_inflight=1),
            schedule=Schedule(self.ingress, self.balance, Speeds()),
            sequences=self.sequences,
            retry=self.retry,
            ledger=self.ledger,
            spans=Spans(attempt_s=5.0, unavailable_s=2.0, hedging=hedging),
            comparison=comparison,
            clock=lambda: self.now,
        )
        for address in addresses:
            self.up(address)

    def up(self, address: str) -> None:
        self.balance.on_endpoint(address, {"m": frozenset()}, now=self.now)
        self.dispatcher.on_endpoints()

    def down(self, address: str) -> None:
        self.balance.on_endpoint(address, {}, now=self.now)
        self.dispatcher.on_endpoints()

    def ask(self, *values: float, **how) -> Request:
        request = self.made(*values, **how)
        assert self.ingress.offer(request, self.now) is ADMIT
        self.dispatcher.wake()
        return request

    def refused(self, **how) -> HeadraceError:
        request = self.made(1.0, **how)
        verdict = self.ingress.offer(request, self.now)
        assert isinstance(verdict, Reject)
        return refusal(verdict, request)

    def made(
        self,
        *values: float,
        timeout_s: float = 30.0,
        version: str = "",
        step: Step | None = None,
        priority: int = 0,
    ) -> Request:
        raw = np.array(values, np.float32).tobytes()
        message = infer_request(
            model="m", version=version, inputs=[("x", "FP32", (len(values), 1), raw)]
        )
        if step is not None:
            add_step(message.parameters, step)
        message.parameters["priority"].uint64_param = priority
        return Request(
            message,
            MODEL,
            now=self.now,
            deadline=self.now + timeout_s,
            objectives=self.objectives,
            answer=asyncio.get_running_loop().create_future(),
        )

    async def turn(self, span_s: float = 0.0) -> None:
        """Lets time pass and the pump run."""
        self.now += span_s
        self.dispatcher.wake()
        for _ in range(3):
            await asyncio.sleep(0)

    def only_sent(self) -> int:
        (delivery_id,) = self.carrier.sent
        return delivery_id


def values_of(request: Request) -> list[float]:
    return np.frombuffer(request.answer.result().raw_output_contents[0], np.float32).tolist()


async def test_what_arrives_in_one_turn_travels_together_up_to_the_bound():
    house = House("a", max_inflight=2)
    requests = [house.ask(float(number)) for number in range(5)]
    await house.turn()
    assert house.carrier.log == [("a", 4)]
    house.carrier.answer(house.only_sent())
    await house.turn()
    assert house.carrier.log == [("a", 4), ("a", 1)]
    house.carrier.answer(house.only_sent())
    assert [values_of(request) for request in requests] == [[0], [2], [4], [6], [8]]


async def test_behind_a_running_batch_only_a_large_one_is_sent():
    house = House("a", max_inflight=2)
    house.ask(1.0)
    await house.turn()
    house.ask(2.0)
    await house.turn()
    assert house.carrier.log == [("a", 1)], "a crumb waits and grows"
    house.ask(3.0)
    await house.turn()
    assert house.carrier.log == [("a", 1), ("a", 2)]


async def test_a_lost_batch_goes_elsewhere_and_a_late_answer_counts_for_nothing():
    house = House("a", "b")
    request = house.ask(1.0, 2.0)
    await house.turn()
    first = house.only_sent()
    address, batch, done = house.carrier.sent[first]
    house.carrier.fail(first, lost())
    await house.turn()
    assert [sent[0] for sent in house.carrier.sent.values()] != [address]
    done(first, BatchReply("9", [(SIGNATURE.outputs[0], (2, 1), bytes(8))], 0.0))
    assert not request.answered
    house.carrier.answer(house.only_sent())
    assert values_of(request) == [2.0, 4.0]
    assert request.answer.result().model_version == "1"
    assert len(batch) == 1


async def test_a_batch_is_tried_three_times_at_most():
    house = House("a", "b")
    request = house.ask(1.0)
    for _ in range(3):
        await house.turn()
        house.carrier.fail(house.only_sent(), lost())
    await house.turn()
    assert len(house.carrier.log) == 3
    with pytest.raises(Unavailable, match="was lost"):
        request.answer.result()


async def test_an_attempt_without_end_is_abandoned():
    house = House("a", "b")
    request = house.ask(1.0)
    await house.turn()
    first = house.carrier.log[0][0]
    await house.turn(5.0)
    assert house.carrier.abandoned == [first]
    await house.turn()
    house.carrier.answer(house.only_sent())
    assert values_of(request) == [2.0]


async def test_deadlines_end_requests_in_the_queue_in_flight_and_between_attempts():
    house = House("a")
    in_flight = house.ask(1.0, timeout_s=1.0)
    beside = house.ask(3.0, timeout_s=9.0)
    await house.turn()
    queued = house.ask(2.0, timeout_s=1.0)
    await house.turn(1.0)
    for request in (in_flight, queued):
        assert isinstance(request.answer.exception(), DeadlineExceeded)
    house.down("a")
    house.carrier.fail(house.only_sent(), lost())
    between = house.ask(4.0, timeout_s=0.5)
    await house.turn(0.5)
    assert isinstance(between.answer.exception(), DeadlineExceeded)
    house.up("a")
    await house.turn()
    house.carrier.answer(house.only_sent())
    assert values_of(beside) == [6.0]


async def test_requests_wait_for_an_endpoint_and_no_longer_than_the_span():
    house = House("a")
    house.down("a")
    early = house.ask(1.0)
    await house.turn(1.0)
    late = house.ask(2.0)
    await house.turn(1.0)
    with pytest.raises(Unavailable, match="no replica of model 'm' is ready"):
        early.answer.result()
    house.up("a")
    await house.turn()
    house.carrier.answer(house.only_sent())
    assert values_of(late) == [4.0]


async def test_a_refused_version_is_looked_for_elsewhere_then_refused():
    house = House("a", "b")
    request = house.ask(1.0, version="7")
    refusal = failure_of(FailedPrecondition("VERSION_NOT_LOADED", "not here"))
    assert refusal.fault is Fault.REFUSED
    for _ in range(2):
        await house.turn()
        house.carrier.fail(house.only_sent(), refusal)
    await house.turn()
    assert sorted(address for address, _ in house.carrier.log) == ["a", "b"]
    with pytest.raises(FailedPrecondition, match="not here"):
        request.answer.result()


async def test_a_refused_batch_whose_other_endpoint_dies_is_refused():
    house = House("a", "b")
    request = house.ask(1.0)
    await house.turn()
    first, (address, *_rest) = next(iter(house.carrier.sent.items()))
    other = {"a": "b", "b": "a"}[address]
    house.balance.on_sent(other)
    house.carrier.fail(first, failure_of(FailedPrecondition("VERSION_NOT_LOADED", "not here")))
    await house.turn()
    assert not request.answered, "the other endpoint is full, not gone"
    house.down(other)
    await house.turn()
    assert isinstance(request.answer.exception(), FailedPrecondition)


async def test_the_one_request_at_fault_fails_and_its_neighbours_do_not():
    house = House("a")
    requests = [house.ask(float(number)) for number in range(4)]
    await house.turn()
    poison = Failure(InvalidArgument("POISON", "bad value"), Fault.INPUT)
    house.carrier.fail(house.only_sent(), poison)
    for _ in range(4):
        await house.turn()
        _, batch, _ = house.carrier.sent[house.only_sent()]
        if batch.tensors[0][3] == np.float32(2).tobytes():
            house.carrier.fail(house.only_sent(), poison)
        else:
            house.carrier.answer(house.only_sent())
    assert isinstance(requests[2].answer.exception(), InvalidArgument)
    assert [values_of(requests[at]) for at in (0, 1, 3)] == [[0], [2], [6]]


async def test_a_caller_that_leaves_a_split_batch_takes_nobody_along():
    house = House("a")
    requests = [house.ask(float(number)) for number in range(4)]
    await house.turn()
    house.carrier.fail(house.only_sent(), Failure(InvalidArgument("POISON", "bad"), Fault.INPUT))
    await house.turn()
    requests[1].answer.cancel()
    for _ in range(3):
        house.carrier.answer(house.only_sent())
        await house.turn()
    assert [values_of(requests[at]) for at in (0, 2, 3)] == [[0], [4], [6]]


async def test_what_waits_after_a_split_ends_at_its_deadline():
    house = House("a")
    requests = [house.ask(1.0, timeout_s=3.0), house.ask(2.0, timeout_s=3.0)]
    await house.turn()
    house.carrier.fail(house.only_sent(), Failure(InvalidArgument("POISON", "bad"), Fault.INPUT))
    await house.turn()
    assert len(house.carrier.sent) == 1
    await house.turn(4.0)
    for request in requests:
        assert isinstance(request.answer.exception(), DeadlineExceeded)


async def taught(house: House, span_s: float = 0.1) -> None:
    """Each endpoint answered some batches after so long."""
    for _ in range(20):
        house.ask(1.0)
        await house.turn()
        house.now += span_s
        house.carrier.answer(house.only_sent())
        await house.turn()
    house.carrier.log.clear()


async def test_an_overdue_batch_goes_to_another_endpoint_too_and_is_answered_once():
    house = House("a", "b")
    await taught(house)
    request = house.ask(1.0)
    await house.turn()
    stuck = house.only_sent()
    await house.turn(0.2)
    assert len(house.carrier.sent) == 1, "twice as long is not three times"
    await house.turn(0.2)
    assert sorted(address for address, _ in house.carrier.log) == ["a", "b"]
    (other,) = house.carrier.sent.keys() - {stuck}
    house.carrier.answer(other)
    assert values_of(request) == [2.0]
    house.carrier.answer(stuck)
    await house.turn()
    counters = house.ledger.of("m")
    assert (counters.succeeded, counters.failed) == (21, 0)
    assert set(house.balance.snapshot().inflight.values()) == {0}


@pytest.mark.parametrize("first_fails", [True, False])
async def test_a_hedged_batch_fails_only_with_both_of_its_attempts(first_fails):
    house = House("a", "b")
    await taught(house)
    request = house.ask(1.0)
    await house.turn()
    stuck = house.only_sent()
    await house.turn(0.4)
    (other,) = house.carrier.sent.keys() - {stuck}
    failing, going = (stuck, other) if first_fails else (other, stuck)
    house.carrier.fail(failing, lost())
    await house.turn()
    assert list(house.carrier.sent) == [going], "no third attempt while one is out"
    house.carrier.answer(going)
    assert values_of(request) == [2.0]


async def test_a_hedge_that_finds_no_endpoint_goes_nowhere_once_the_first_one_answered():
    house = House("a", "b")
    await taught(house)
    house.balance.on_sent("b")
    request = house.ask(1.0)
    await house.turn()
    stuck = house.only_sent()
    await house.turn(0.5)
    house.carrier.answer(stuck)
    assert values_of(request) == [2.0]
    house.balance.on_ended("b")
    await house.turn()
    assert house.carrier.log == [("a", 1)]


async def test_without_tokens_or_by_setting_nothing_is_hedged():
    for house in (House("a", "b", hedging=False), House("a", "b")):
        await taught(house)
        while house.hedging and house.retry.take_hedge():
            pass
        request = house.ask(1.0)
        await house.turn()
        await house.turn(1.0)
        assert len(house.carrier.log) == 1
        house.carrier.answer(house.only_sent())
        assert values_of(request) == [2.0]


async def test_a_slow_endpoint_is_asked_a_copy_that_nobody_waits_for():
    house = House("a", "b")
    for _ in range(40):
        request = house.ask(1.0, 2.0)
        await house.turn()
        for delivery_id, (address, _, _) in list(house.carrier.sent.items()):
            house.now += 1.0 if address == "b" else 0.1
            house.carrier.answer(delivery_id)
        await house.turn()
        assert request.answered
    house.now += 1.0
    house.carrier.log.clear()
    request = house.ask(1.0, 2.0)
    await house.turn()
    assert house.carrier.log == [("a", 2), ("b", 2)]
    first, copy = house.carrier.sent
    assert house.retry.take_hedge()
    tokens = house.retry.snapshot().tokens
    house.carrier.answer(copy)
    assert not request.answered, "the copy is no answer"
    assert house.retry.snapshot().tokens == tokens, "nor a success"
    house.carrier.answer(first)
    assert values_of(request) == [2.0, 4.0]
    executions = sum(entry.executions for _, entry in house.ledger.of("m").versions)
    assert executions == house.ledger.of("m").batches == 41


async def test_what_would_be_late_is_refused_at_once_and_told_when_to_come_back():
    house = House("a")
    await taught(house, 1.0)
    for _ in range(5):
        house.ask(1.0, timeout_s=4.0)
    for _ in range(9):
        house.ingress.offer(house.made(1.0, timeout_s=4.0), house.now)
    refused = house.refused(timeout_s=4.0)
    assert (refused.code.name, refused.reason) == ("RESOURCE_EXHAUSTED", "WOULD_BE_LATE")
    assert refused.retry_after_s > 0
    short = house.refused(timeout_s=0.5)
    assert (short.code.name, short.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_TOO_SHORT")
    assert "takes longer than the 499 ms that the deadline leaves" in short.message


async def test_an_objective_counts_like_a_deadline_or_lets_late_ones_go_on():
    for late_priority in (0, 4):
        house = House("a", objectives=Objectives({2: 2.5}), late_priority=late_priority)
        await taught(house, 1.0)
        house.ask(1.0)
        await house.turn()
        waiting = [house.ask(float(number)) for number in range(1, 3)]
        await house.turn(0.5)
        if not late_priority:
            for _ in range(9):
                house.ingress.offer(house.made(1.0), house.now)
            refused = house.refused()
            assert (refused.code.name, refused.reason) == ("RESOURCE_EXHAUSTED", "WOULD_BE_LATE")
            assert house.ingress.overload(house.now) == Stage.EVERYBODY
            continue
        late = house.ask(9.0)
        while late.priority != 4:
            late = house.ask(9.0)
        await house.turn(0.5)
        for _ in range(4):
            for delivery_id in list(house.carrier.sent):
                house.carrier.answer(delivery_id)
            await house.turn(0.5)
        assert values_of(late) == [18.0]
        assert all(request.answered for request in waiting)


async def test_an_evicted_request_is_told_so():
    house = House("a", max_requests=1)
    house.ask(0.0)
    await house.turn()
    low = house.ask(1.0, priority=3)
    request = house.made(2.0, priority=1)
    verdict = house.ingress.offer(request, house.now)
    assert verdict.evicted == (low,)
    error = low.answer.exception()
    assert (error.code.name, error.reason) == ("RESOURCE_EXHAUSTED", "EVICTED")
    assert house.ingress.overload(house.now) == Stage.LOWER_CLASSES
    assert house.ledger.of("m").shed == 1


async def test_a_cancelled_request_is_not_sent():
    house = House("a")
    gone, stays = house.ask(1.0), house.ask(2.0)
    gone.answer.cancel()
    await house.turn()
    assert house.carrier.log == [("a", 1)]
    house.carrier.answer(house.only_sent())
    assert values_of(stays) == [4.0]


async def test_idle_means_that_nobody_waits():
    house = House("a")
    request = house.ask(1.0, timeout_s=1.0)
    await house.turn()
    idle = asyncio.create_task(house.dispatcher.wait_idle())
    await house.turn()
    assert not idle.done()
    await house.turn(1.0)
    assert isinstance(request.answer.exception(), DeadlineExceeded)
    await idle


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 4), st.sampled_from([1.0, 8.0, 8.0])),
        st.tuples(st.just("answer"), st.integers(0, 5), st.just(0.0)),
        st.tuples(
            st.sampled_from(["lost", "input", "refused", "defect"]),
            st.integers(0, 5),
            st.just(0.0),
        ),
        st.tuples(st.sampled_from(["up", "down"]), st.integers(0, 2), st.just(0.0)),
        st.tuples(st.just("cancel"), st.integers(0, 9), st.just(0.0)),
        st.tuples(st.just("pass"), st.just(0), st.floats(0.1, 3.0)),
    ),
    max_size=40,
)
FAILURES = {
    "lost": lost(),
    "input": Failure(InvalidArgument("POISON", "bad"), Fault.INPUT),
    "refused": Failure(FailedPrecondition("VERSION_NOT_LOADED", "no"), Fault.REFUSED),
    "defect": Failure(Unavailable("REPLICA_ERROR", "no"), Fault.DEFECT),
}


async def live_through(steps) -> None:
    house = House("a", "b", "c", max_inflight=2)
    asked: list[tuple[Request, list[float]]] = []
    for kind, number, span in steps:
        under_way = sorted(house.carrier.sent)
        if kind == "ask":
            values = [float(len(asked) * 10 + at) for at in range(number)]
            request = house.made(*values, timeout_s=span)
            # What only a busy or slow house refuses is not asked; its end is the refusal.
            if isinstance(house.ingress.offer(request, house.now), Admit):
                asked.append((request, values))
        elif kind in ("up", "down"):
            getattr(house, kind)("abc"[number])
        elif kind == "cancel" and asked:
            request = asked[number % len(asked)][0]
            if request.answer.cancel():
                house.ingress.withdraw(request, house.now)
        elif kind == "answer" and under_way:
            house.carrier.answer(under_way[number % len(under_way)])
        elif kind in FAILURES and under_way:
            house.carrier.fail(under_way[number % len(under_way)], FAILURES[kind])
        await house.turn(span if kind == "pass" else 0.0)
        loads = house.balance.snapshot().inflight
        assert sum(loads.values()) == len(house.carrier.sent)
        assert all(batch.rows <= 4 for _, batch, _ in house.carrier.sent.values())
        overdue = [r for r, _ in asked if r.deadline <= house.now and not r.answered]
        assert not overdue
    # Whatever happened, every request ends: with its own rows, or with one status.
    await house.turn(40.0)
    for request, values in asked:
        assert request.answered
        if not request.answer.cancelled() and request.answer.exception() is None:
            assert values_of(request) == [2 * value for value in values]
        elif not request.answer.cancelled():
            assert isinstance(request.answer.exception(), HeadraceError)
    counters = house.ledger.of("m")
    assert counters.succeeded + counters.failed == len(asked)


@given(STEPS)
@settings(max_examples=120, deadline=None)
def test_every_request_ends_once_with_its_own_rows(steps):
    asyncio.run(live_through(steps))


def step(house: House, value: float, *, start: bool = False, end: bool = False, **how) -> Request:
    return house.ask(value, step=Step(9, start, end), **how)


def sent_steps(house: House) -> list[tuple[str, Step, int]]:
    """Where each request under way went, its place in the sequence, and the version asked for."""
    return [
        (address, batch.step, batch.pinned) for address, batch, _ in house.carrier.sent.values()
    ]


async def test_a_sequence_goes_in_order_one_at_a_time_to_one_endpoint_and_version():
    house = House("a", "b", max_inflight=2)
    requests = [step(house, 1.0, start=True), step(house, 2.0), step(house, 3.0, end=True)]
    house.ask(50.0)
    await house.turn()
    assert len(house.carrier.sent) == 2, "one of the sequence, and the other request"
    places, names, versions = [], set(), []
    for _ in requests:
        ((at, (address, sent, version)),) = [
            (number, found)
            for number, found in zip(house.carrier.sent, sent_steps(house), strict=True)
            if found[1] is not None
        ]
        places.append(address)
        names.add(sent.id)
        versions.append(version)
        house.carrier.answer(at)
        await house.turn()
    assert [values_of(request) for request in requests] == [[2.0], [4.0], [6.0]]
    assert len(set(places)) == 1 and len(names) == 1
    assert versions == [0, 1, 1]
    assert len(house.sequences) == 0


async def test_a_start_is_sent_again_elsewhere_a_continuing_request_never():
    house = House("a", "b")
    first = step(house, 1.0, start=True)
    await house.turn()
    house.carrier.fail(house.only_sent(), lost())
    await house.turn()
    assert [address for address, _ in house.carrier.log] == ["a", "b"]
    house.carrier.answer(house.only_sent())
    assert values_of(first) == [2.0]
    second, third = step(house, 2.0), step(house, 3.0)
    await house.turn()
    house.carrier.fail(house.only_sent(), lost())
    await house.turn()
    for request in (second, third):
        error = request.answer.exception()
        assert isinstance(error, FailedPrecondition)
        assert error.reason == "SEQUENCE_LOST"
        assert "sequence 9" in error.message and "start it anew" in error.message
    assert len(house.carrier.log) == 3
    again = step(house, 4.0, start=True)
    await house.turn()
    house.carrier.answer(house.only_sent())
    assert values_of(again) == [8.0]


async def test_an_interrupted_service_loses_what_began_there_at_once():
    house = House("a")
    step(house, 1.0, start=True)
    await house.turn()
    house.carrier.answer(house.only_sent())
    house.down("a")
    house.up("a")
    late = step(house, 2.0)
    await house.turn()
    assert late.answer.exception().reason == "SEQUENCE_LOST"


async def test_a_request_at_fault_leaves_its_sequence_alive():
    house = House("a", "b")
    step(house, 1.0, start=True)
    await house.turn()
    house.carrier.answer(house.only_sent())
    bad, good = step(house, 2.0), step(house, 3.0)
    await house.turn()
    house.carrier.fail(house.only_sent(), failure_of(InvalidArgument("POISON", "no")))
    await house.turn()
    assert bad.answer.exception().reason == "POISON"
    house.carrier.answer(house.only_sent())
    assert values_of(good) == [6.0]


async def test_requests_that_expire_or_whose_callers_leave_are_skipped():
    house = House("a")
    requests = [
        step(house, 1.0, start=True),
        step(house, 2.0, timeout_s=1.0),
        step(house, 3.0),
        step(house, 4.0),
    ]
    await house.turn()
    requests[2].answer.cancel()
    house.ingress.withdraw(requests[2], house.now)
    await house.turn(2.0)
    house.carrier.answer(house.only_sent())
    await house.turn()
    assert isinstance(requests[1].answer.exception(), DeadlineExceeded)
    house.carrier.answer(house.only_sent())
    assert values_of(requests[3]) == [8.0]


async def test_a_start_that_was_withdrawn_takes_the_rest_along():
    house = House()
    first, second = step(house, 1.0, start=True), step(house, 2.0)
    first.answer.cancel()
    house.up("a")
    await house.turn()
    assert second.answer.exception().reason == "SEQUENCE_LOST"
    assert not house.carrier.log


async def test_a_request_that_names_another_version_than_its_sequence_is_refused():
    house = House("a")
    step(house, 1.0, start=True)
    odd = step(house, 2.0, version="5")
    last = step(house, 3.0, version="1")
    await house.turn()
    house.carrier.answer(house.only_sent())
    await house.turn()
    error = odd.answer.exception()
    assert error.reason == "SEQUENCE_VERSION" and "version 1" in error.message
    house.carrier.answer(house.only_sent())
    assert values_of(last) == [6.0]


async def test_a_busy_endpoint_makes_its_sequences_wait_and_no_others():
    house = House("a", "b")
    step(house, 1.0, start=True)
    await house.turn()
    house.carrier.answer(house.only_sent())
    house.balance.on_sent("a")
    waits, other = step(house, 2.0), house.ask(9.0)
    await house.turn()
    assert [address for address, _ in house.carrier.log] == ["a", "b"]
    house.carrier.answer(house.only_sent())
    assert values_of(other) == [18.0] and not waits.answered


async def test_an_idle_sequence_is_forgotten_and_the_bound_holds():
    house = House("a")
    step(house, 1.0, start=True)
    await house.turn()
    house.carrier.answer(house.only_sent())
    await house.turn(60.0)
    assert len(house.sequences) == 0
    assert house.refused(step=Step(9, False, False)).reason == "SEQUENCE_NOT_STARTED"
    for number in range(4):
        house.ask(1.0, step=Step(f"n{number}", True, False))
    error = house.refused(step=Step("more", True, False))
    assert error.reason == "TOO_MANY_SEQUENCES" and error.retry_after_s


async def test_a_start_refused_for_want_of_room_leaves_the_sequence_before_it_alone():
    house = House("a")
    step(house, 1.0, start=True)
    await house.turn()
    house.carrier.answer(house.only_sent())
    assert house.refused(step=Step(9, True, False), timeout_s=0.0).reason == "DEADLINE_EXCEEDED"
    more = step(house, 2.0)
    await house.turn()
    house.carrier.answer(house.only_sent())
    assert values_of(more) == [4.0]


async def test_a_higher_priority_overtakes_what_waits():
    house = House("a")
    house.ask(0.0)
    await house.turn()
    low = [house.ask(float(number), priority=3) for number in range(1, 5)]
    high = house.ask(9.0, priority=1)
    await house.turn()
    house.carrier.answer(house.only_sent())
    await house.turn()
    house.carrier.answer(house.only_sent())
    assert values_of(high) == [18.0]
    assert [request.answered for request in low] == [True, True, True, False]
