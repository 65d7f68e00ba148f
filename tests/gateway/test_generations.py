"""Decoupled requests in the dispatcher: a carrier that obeys, a clock that stands."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.errors import DeadlineExceeded, HeadraceError, Internal, InvalidArgument, Unavailable
from chassis.infer import infer_request
from chassis.tensors import Signature, TensorSpec
from gateway.catalog import ServedModel
from gateway.dispatch.delivery import Ended, Failure, Listener, failure_of, lost
from gateway.dispatch.dispatcher import Dispatcher, Spans
from gateway.ingress.batch import BatchReply
from gateway.ingress.door import Ingress
from gateway.ingress.generation import Generation
from gateway.ingress.request import Request
from gateway.policy.balance import Balance
from gateway.policy.batching import ADMIT, Backlog
from gateway.policy.retry import RetryPolicy
from gateway.policy.schedule import Schedule
from gateway.policy.sequences import Sequences
from gateway.policy.speed import Speeds
from gateway.statistics import Ledger

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "FP32", (-1, 1)),), 4, decoupled=True
)
MODEL = ServedModel.of("m", SIGNATURE, 0)
SPANS = Spans(attempt_s=5.0, unavailable_s=2.0)


@dataclass
class Sink:
    """A caller; implements `Responses`."""

    values: list[float] = field(default_factory=list)
    end: Any = None
    full: bool = False
    callbacks: list[Any] = field(default_factory=list)

    def done(self) -> bool:
        return self.end is not None

    def respond(self, reply: Any) -> None:
        assert not self.done()
        self.values += np.frombuffer(reply.raw_output_contents[0], np.float32).tolist()

    def set_result(self, reply: Any) -> None:
        assert not reply.outputs
        self._end(reply)

    def set_exception(self, error: HeadraceError) -> None:
        self._end(error)

    def add_done_callback(self, callback: Any) -> None:
        self.callbacks.append(callback)

    def cancel(self) -> None:
        self._end("cancelled")

    async def wait_room(self) -> None:
        raise AssertionError("the carrier waits, not the dispatcher")

    def _end(self, end: Any) -> None:
        assert not self.done(), "answered twice"
        self.end = end
        for callback in self.callbacks:
            callback(self)


class House:
    """A dispatcher whose carrier keeps each attempt until a test says how it goes on."""

    def __init__(self, *addresses: str, seats: int = 2) -> None:
        self.now = 0.0
        self.sent: dict[int, tuple[str, Generation, Listener]] = {}
        self.log: list[str] = []
        self.abandoned: list[str] = []
        self.batches, self.seats = Balance(max_inflight=1), Balance(max_inflight=seats)
        self.ledger = Ledger()
        sequences = Sequences(max_sequences=10, idle_s=60.0, origin=0)
        self.ingress = Ingress(Backlog(max_requests=100, max_bytes=10**6), self.ledger, sequences)
        self.dispatcher = Dispatcher(
            self.ingress,
            self,
            balance=self.batches,
            generations=self.seats,
            schedule=Schedule(self.ingress, self.batches, Speeds()),
            sequences=sequences,
            retry=RetryPolicy(max_attempts=3),
            ledger=self.ledger,
            spans=SPANS,
            clock=lambda: self.now,
        )
        for address in addresses:
            for balance in (self.batches, self.seats):
                balance.on_endpoint(address, {"m": frozenset()}, now=0.0)

    def send(self, *_arguments: Any) -> None:
        raise AssertionError("a decoupled request is no batch")

    def generate(self, address, delivery_id, generation, timeout_s, listener) -> None:
        assert timeout_s > 0
        self.sent[delivery_id] = (address, generation, listener)
        self.log.append(address)
        generation.call_when_done(lambda: self.end(delivery_id, lost()))

    def abandon(self, address: str, delivery_id: int) -> None:
        self.abandoned.append(address)
        self.end(delivery_id, lost())

    def respond(self, delivery_id: int, value: float) -> None:
        raw = np.float32(value).tobytes()
        reply = BatchReply("1", [(SIGNATURE.outputs[0], (1, 1), raw)], 0.0)
        self.sent[delivery_id][2].on_response(delivery_id, reply)

    def end(self, delivery_id: int, outcome: Ended | Failure) -> None:
        if delivery_id in self.sent:
            _, _, listener = self.sent.pop(delivery_id)
            listener.on_outcome(delivery_id, outcome)

    def ask(self, timeout_s: float = 30.0) -> tuple[Sink, Request]:
        raw = np.zeros(1, np.float32).tobytes()
        message = infer_request(model="m", inputs=[("x", "FP32", (1, 1), raw)])
        sink = Sink()
        deadline = self.now + timeout_s
        request = Request(
            message, MODEL, now=self.now, deadline=deadline, answer=sink, responses=sink
        )
        assert self.ingress.offer(request, self.now) is ADMIT
        self.dispatcher.wake()
        return sink, request

    async def turn(self, span_s: float = 0.0) -> None:
        self.now += span_s
        self.dispatcher.wake()
        for _ in range(3):
            await asyncio.sleep(0)

    def only(self) -> int:
        (delivery_id,) = self.sent
        return delivery_id


async def test_each_request_goes_alone_and_leaves_the_seats_of_batches():
    house = House("a", "b", seats=2)
    for _ in range(6):
        house.ask()
    await house.turn()
    assert sorted(house.log) == ["a", "a", "b", "b"]
    assert set(house.batches.snapshot().inflight.values()) == {0}
    house.end(next(iter(house.sent)), Ended("1"))
    await house.turn()
    assert len(house.log) == 5


async def test_it_is_tried_elsewhere_only_before_its_first_response():
    house = House("a", "b")
    (before, _), fault = house.ask(), failure_of(Unavailable("GONE", "gone"))
    await house.turn()
    house.end(house.only(), fault)
    await house.turn()
    assert sorted(house.log) == ["a", "b"]
    house.respond(house.only(), 7.0)
    house.end(house.only(), fault)
    await house.turn()
    assert not house.sent and before.values == [7.0]
    assert isinstance(before.end, Unavailable) and before.end.message == "gone"


async def test_the_attempt_has_its_time_anew_with_every_response():
    house = House("a", "b")
    sink, _ = house.ask(timeout_s=100.0)
    await house.turn()
    for value in range(4):
        await house.turn(4.0)
        house.respond(house.only(), float(value))
    assert not house.abandoned
    await house.turn(5.0)
    assert house.abandoned == [house.log[0]]
    assert isinstance(sink.end, Unavailable) and sink.values == [0.0, 1.0, 2.0, 3.0]


async def test_a_silent_attempt_before_the_first_response_goes_elsewhere():
    house = House("a", "b")
    sink, _ = house.ask()
    await house.turn()
    await house.turn(5.0)
    await house.turn()
    assert sorted(house.log) == ["a", "b"] and not sink.done()


async def test_a_caller_that_does_not_read_costs_the_replica_no_time():
    house = House("a")
    sink, _ = house.ask(timeout_s=100.0)
    await house.turn()
    sink.full = True
    house.respond(house.only(), 1.0)
    await house.turn(50.0)
    assert not house.abandoned
    sink.full = False
    house.sent[house.only()][2].on_resumed(house.only())
    await house.turn(4.9)
    assert not house.abandoned
    await house.turn(0.1)
    assert house.abandoned == ["a"]


async def test_deadline_and_cancel_end_the_call_at_once():
    house = House("a")
    late, _ = house.ask(timeout_s=1.0)
    gone, request = house.ask()
    await house.turn()
    gone.cancel()
    house.ingress.withdraw(request, house.now)
    assert len(house.sent) == 1, "at once, not at the next turn"
    await house.turn(1.0)
    assert isinstance(late.end, DeadlineExceeded) and not house.sent
    assert house.seats.snapshot().inflight == {"a": 0}
    response = house.ledger.of("m").versions.newest().responses[0]
    assert (response.fail.count, response.cancelled.count) == (1, 1)


async def test_an_idle_house_has_no_generation():
    house = House("a")
    sink, _ = house.ask()
    await house.turn()
    idle = asyncio.create_task(house.dispatcher.wait_idle())
    house.respond(house.only(), 1.0)
    await house.turn()
    assert not idle.done()
    house.end(house.only(), Ended("1"))
    await house.turn()
    assert idle.done() and sink.done()


FAULTS = [
    lost(),
    failure_of(InvalidArgument("BAD", "bad")),
    failure_of(Internal("INTERNAL", "id")),
    Ended("1"),
]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from([3, 100])),
        st.tuples(st.sampled_from(["respond", "cancel"]), st.integers(0, 9)),
        st.tuples(st.just("end"), st.integers(0, 39)),
        st.tuples(st.just("pass"), st.integers(0, 6)),
    ),
    max_size=50,
)


async def live_through(steps: list[tuple[str, int]]) -> None:
    house = House("a", "b", seats=2)
    asked: list[tuple[Sink, Request]] = []
    given_values: dict[Generation, list[float]] = {}
    for turn, (kind, number) in enumerate(steps):
        under_way = sorted(house.sent)
        if kind == "ask":
            asked.append(house.ask(timeout_s=float(number)))
        elif kind == "respond" and under_way:
            delivery_id = under_way[number % len(under_way)]
            key = house.sent[delivery_id][1]
            given_values.setdefault(key, []).append(float(turn))
            house.respond(delivery_id, float(turn))
        elif kind == "end" and under_way:
            house.end(under_way[number % len(under_way)], FAULTS[number % len(FAULTS)])
        elif kind == "cancel" and asked:
            sink, request = asked[number % len(asked)]
            if not sink.done():
                sink.cancel()
                house.ingress.withdraw(request, house.now)
        await house.turn(float(number) if kind == "pass" else 0.0)
        assert sum(house.seats.snapshot().inflight.values()) == len(house.sent) <= 4
        assert all(not generation.done for _, generation, _ in house.sent.values())
    await house.turn(200.0)
    assert all(sink.done() for sink, _ in asked) and not house.sent
    given = sorted(values for values in given_values.values())
    assert sorted(sink.values for sink, _ in asked if sink.values) == given
    counters = house.ledger.of("m")
    assert counters.succeeded + counters.failed == len(asked)


@given(STEPS)
@settings(max_examples=120, deadline=None)
def test_every_request_ends_once_with_its_own_responses(steps):
    asyncio.run(live_through(steps))
