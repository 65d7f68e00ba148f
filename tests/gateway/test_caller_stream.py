"""One caller's stream without a network: what it holds, and when it stops reading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.errors import InvalidArgument, Unavailable
from chassis.infer import infer_reply, infer_request
from chassis.tensors import Signature, TensorSpec
from gateway.caller_stream import CallerStream, StreamBounds, Ticket
from gateway.catalog import ServedModel
from gateway.ingress.request import OVERHEAD_BYTES, Request
from protos.inference import grpc_service_pb2 as oip
from tests.gateway.streams import FINAL

X, Y = TensorSpec("x", "UINT8", (-1, -1)), TensorSpec("y", "UINT8", (-1, -1))
SIGNATURE = Signature((X,), (Y,), 8)
MODEL = ServedModel.of("m", SIGNATURE, 0)
AMPLE = StreamBounds(requests=1000, size_bytes=10**9, responses=1000)


def asked(name: str, size: int = 8) -> oip.ModelInferRequest:
    return infer_request(
        model="m", request_id=name, inputs=[("x", "UINT8", (1, size), bytes(size))]
    )


def answer(name: str, size: int = 8) -> oip.ModelInferResponse:
    output = (SIGNATURE.outputs[0], (1, size), bytes(size))
    return infer_reply(model="m", version="1", request_id=name, outputs=[output])


@dataclass
class House:
    """A stream whose requests end when a test says so."""

    bounds: StreamBounds = AMPLE
    tickets: dict[str, Ticket] = field(default_factory=dict)
    withdrawn: list[str] = field(default_factory=list)
    sent: asyncio.Queue[oip.ModelInferRequest | Exception | None] = field(
        default_factory=asyncio.Queue
    )

    def __post_init__(self) -> None:
        self.stream = CallerStream(self._begin, self._withdraw, self.bounds)
        self.replies = self.stream.replies(self._messages())

    def _begin(self, message: oip.ModelInferRequest, ticket: Ticket) -> Request:
        if message.id == "refused":
            raise InvalidArgument("BAD", "no")
        request = Request(message, MODEL, now=0.0, deadline=9.0, answer=ticket, responses=ticket)
        self.tickets[message.id] = ticket
        return request

    def _withdraw(self, request: Request) -> None:
        assert request.answered
        self.withdrawn.append(request.id)

    async def _messages(self) -> AsyncIterator[oip.ModelInferRequest]:
        while (message := await self.sent.get()) is not None:
            if isinstance(message, Exception):
                raise message
            yield message

    def send(self, *messages: oip.ModelInferRequest | Exception | None) -> None:
        for message in messages:
            self.sent.put_nowait(message)

    async def next(self) -> oip.ModelStreamInferResponse:
        return await anext(self.replies)

    async def turn(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def begun(house: House) -> asyncio.Task[oip.ModelStreamInferResponse]:
    """Starts reading: the task waits for the first reply."""
    task = asyncio.create_task(house.next())
    await house.turn()
    return task


@pytest.mark.parametrize(
    ("bounds", "taken"),
    [
        (StreamBounds(3, 10**9, 10), 3),
        (StreamBounds(10, 3 * (OVERHEAD_BYTES + 8), 10), 3),
        (StreamBounds(10, 3 * (OVERHEAD_BYTES + 8) + 1, 10), 4),
    ],
)
async def test_it_reads_up_to_its_bound_and_on_as_answers_are_taken(bounds, taken):
    house = House(bounds)
    house.send(*(asked(str(at)) for at in range(8)))
    first = await begun(house)
    assert len(house.tickets) == taken
    house.tickets["1"].set_result(answer("1"))
    assert (await first).infer_response.id == "1"
    await house.turn()
    assert len(house.tickets) == taken, "taken, but not known to be written"
    second = await begun(house)
    assert len(house.tickets) == taken + 1
    second.cancel()


async def test_refusals_that_nobody_reads_hold_it_up_as_well():
    house = House(StreamBounds(3, 10**9, 10))
    house.send(asked("refused"), *(asked("refused") for _ in range(9)))
    first = await begun(house)
    assert (await first).error_message == "no"
    await house.turn()
    assert house.sent.qsize() == 7


async def test_the_stream_ends_after_its_last_answer_and_then_raises_what_reading_raised():
    house = House()
    house.send(asked("a"), InvalidArgument("MALFORMED_MESSAGE", "no message"))
    first = await begun(house)
    house.tickets["a"].set_result(answer("a"))
    assert (await first).infer_response.parameters[FINAL].bool_param
    with pytest.raises(InvalidArgument, match="no message"):
        await house.next()


async def test_it_stops_reading_when_told_and_ends_after_the_last_answer():
    house = House()
    house.send(asked("a"))
    first = await begun(house)
    house.stream.stop_reading()
    house.tickets["a"].set_exception(Unavailable("GONE", "gone"))
    assert (await first).error_message == "gone"
    with pytest.raises(StopAsyncIteration):
        await house.next()


async def test_closed_it_withdraws_what_is_unanswered_and_wakes_who_waits():
    house = House(StreamBounds(10, 10**9, 1))
    house.send(asked("a"), asked("b"), asked("c"))
    first = await begun(house)
    ended: list[str] = []
    house.tickets["b"].add_done_callback(lambda _ticket: ended.append("b"))
    house.tickets["a"].set_result(answer("a"))
    await first
    await house.replies.aclose()
    assert sorted(house.withdrawn) == ["b", "c"] and ended == ["b"]
    assert all(ticket.done() for ticket in house.tickets.values())


async def test_responses_wait_for_room_until_one_is_taken():
    house = House(StreamBounds(10, 10**9, 2))
    house.send(asked("a"))
    reading = await begun(house)
    ticket = house.tickets["a"]
    ticket.empty_final = True
    for _ in range(3):
        ticket.respond(answer("a"))
    await reading
    assert ticket.full
    room = asyncio.create_task(ticket.wait_room())
    await house.turn()
    assert not room.done()
    await house.next()
    await room
    assert not ticket.full


async def test_a_request_of_more_bytes_than_a_stream_may_hold_leaves_responses_room():
    house = House(StreamBounds(10, 1000, 10))
    house.send(asked("a", size=5000))
    reading = await begun(house)
    assert not house.tickets["a"].full
    house.tickets["a"].set_result(answer("a"))
    await reading


MOVES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["ask", "refuse"]), st.integers(0, 2000)),
        st.tuples(st.sampled_from(["respond", "end", "fail"]), st.integers(0, 50)),
        st.tuples(st.just("read"), st.integers(1, 5)),
    ),
    max_size=60,
)


async def live_through(moves: list[tuple[str, int]], empty_final: bool) -> None:
    house = House(StreamBounds(4, 4000, 3))
    got: list[oip.ModelStreamInferResponse] = []
    wanted: dict[str, int] = {}
    pending: asyncio.Task[oip.ModelStreamInferResponse] | None = None
    asked_for = 0

    async def read() -> None:
        nonlocal pending
        pending = pending or asyncio.create_task(house.next())
        await house.turn()
        if pending.done() and pending.exception() is None:
            got.append(pending.result())
            pending = None

    await read()
    for kind, number in moves:
        open_tickets = [ticket for ticket in house.tickets.values() if not ticket.done()]
        if kind == "ask":
            house.send(asked(str(asked_for), size=number + 1))
            asked_for += 1
        elif kind == "refuse":
            house.send(asked("refused"))
        elif kind == "read":
            for _ in range(number):
                await read()
        elif open_tickets:
            ticket = open_tickets[number % len(open_tickets)]
            ticket.empty_final = empty_final
            if kind == "respond":
                ticket.respond(answer(ticket.id, size=number + 1))
                wanted[ticket.id] = wanted.get(ticket.id, 0) + 1
            elif kind == "end":
                ticket.set_result(oip.ModelInferResponse(id=ticket.id))
            else:
                ticket.set_exception(Unavailable("GONE", "gone"))
        await house.turn()
    house.send(None)
    for _ in range(1000):
        for ticket in [ticket for ticket in house.tickets.values() if not ticket.done()]:
            ticket.set_result(oip.ModelInferResponse(id=ticket.id))
        if pending is not None and pending.done() and pending.exception() is not None:
            break
        await read()
    assert pending is not None and pending.done()
    assert isinstance(pending.exception(), StopAsyncIteration)
    for request_id in map(str, range(asked_for)):
        own = [each for each in got if each.infer_response.id == request_id]
        finals = [each.infer_response.parameters[FINAL].bool_param for each in own]
        assert finals == [False] * (len(own) - 1) + [True], "one end, and it comes last"
        outputs = sum(bool(each.infer_response.outputs) for each in own)
        assert outputs == wanted.get(request_id, 0), "every response came"


@given(MOVES, st.booleans())
@settings(max_examples=100, deadline=None)
def test_every_request_gets_all_responses_and_one_end(moves, empty_final):
    asyncio.run(live_through(moves, empty_final))
