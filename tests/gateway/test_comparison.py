"""What is held against whom while a candidate is on trial: no network, a clock that stands."""

from __future__ import annotations

import pytest

from chassis.errors import DeadlineExceeded, Internal, InvalidArgument, Unavailable
from gateway.arms import Arms, Figures
from gateway.dispatch.comparison import Comparison
from gateway.dispatch.delivery import Failure, failure_of, lost
from gateway.ingress.request import Request
from gateway.policy.rollout import Candidate
from tests.gateway.test_dispatcher import House, values_of

ON_TRIAL = Candidate(2, 1, 0, 0.5, 0.0)
DEFECT = failure_of(Internal("INTERNAL", "it broke"))
BAD_INPUT = failure_of(InvalidArgument("MODEL_REFUSED_INPUT", "no"))


class Trial(House):
    """A house in which version 2 is on trial until `current` says otherwise."""

    def __init__(self, *addresses: str, **how) -> None:
        self.current: Candidate | None = ON_TRIAL
        self.arms = Arms(lambda _model: self.current)
        super().__init__(*addresses, comparison=Comparison(self.arms), **how)
        for address in addresses:
            self.balance.on_endpoint(address, {"m": frozenset({1, 2})}, now=self.now)

    def tried(self, *values: float, **how) -> Request:
        request = self.made(*values, **how)
        request.try_candidate(2)
        self.ingress.offer(request, self.now)
        self.dispatcher.wake()
        return request

    @property
    def figures(self) -> Figures:
        figures = self.arms.of("m")
        assert figures is not None
        return figures

    def counted(self) -> tuple[int, int, int, int]:
        """Requests and failures of the candidate, then of the other."""
        candidate, control = self.figures.candidate, self.figures.control
        return candidate.requests, candidate.failed, control.requests, control.failed

    async def fail(self, failure: Failure) -> None:
        self.carrier.fail(self.only_sent(), failure)
        await self.turn()

    async def answer(self) -> None:
        self.carrier.answer(self.only_sent())
        await self.turn()


async def test_what_either_answers_is_counted_to_it():
    house = Trial("a")
    first, second = house.tried(1.0), house.ask(2.0)
    await house.turn()
    await house.answer()
    await house.answer()
    assert (values_of(first), values_of(second)) == ([2.0], [4.0])
    assert house.counted() == (1, 0, 1, 0)


@pytest.mark.parametrize("failure", [DEFECT, BAD_INPUT, lost()])
async def test_what_only_the_candidate_fails_is_its_fault(failure: Failure):
    house = Trial("a")
    request = house.tried(1.0)
    await house.turn()
    await house.fail(failure)
    assert house.carrier.sent[house.only_sent()][1].pinned == 0
    await house.answer()
    assert values_of(request) == [2.0]
    assert house.counted() == (1, 1, 0, 0)
    # The caller's attempts are all left.
    assert house.retry.snapshot().allowed == 0


async def test_what_an_endpoint_cannot_do_now_is_nobodys_fault():
    house = Trial("a")
    request = house.tried(1.0)
    await house.turn()
    refused = Unavailable("DRAINING", "later")
    await house.fail(Failure(refused, failure_of(refused).fault.BUSY))
    await house.answer()
    assert values_of(request) == [2.0]
    assert house.counted() == (0, 0, 0, 0)


async def test_a_neighbour_of_bad_input_is_no_failure_of_the_candidate():
    house = Trial("a")
    good, bad = house.tried(1.0), house.tried(2.0)
    await house.turn()
    await house.fail(BAD_INPUT)
    # Whole, beside the candidate: fails there too, and is taken apart.
    await house.fail(BAD_INPUT)
    await house.answer()
    await house.fail(BAD_INPUT)
    assert values_of(good) == [2.0]
    assert isinstance(bad.answer.exception(), InvalidArgument)
    assert house.counted() == (0, 0, 0, 0)


async def test_a_lost_endpoint_counts_against_the_version_that_was_on_it():
    house = Trial("a", "b")
    house.ask(1.0)
    await house.turn()
    await house.fail(lost())
    await house.answer()
    assert house.counted() == (0, 0, 1, 1)


async def test_what_neither_answers_in_time_is_held_against_the_candidate_that_kept_it():
    house = Trial("a")
    request = house.tried(1.0, timeout_s=3.0)
    await house.turn()
    await house.turn(3.5)
    assert isinstance(request.answer.exception(), DeadlineExceeded)
    assert house.counted() == (1, 1, 0, 0)


async def test_an_overdue_candidate_is_not_waited_for():
    house = Trial("a", "b")
    for _ in range(40):
        house.ask(1.0)
        await house.turn(0.01)
        while house.carrier.sent:
            house.now += 0.01
            house.carrier.answer(next(iter(house.carrier.sent)))
            await house.turn()
    before = house.counted()
    request = house.tried(1.0)
    await house.turn()
    (hung,) = house.carrier.sent
    await house.turn(1.0)
    (other,) = house.carrier.sent.keys() - {hung}
    assert house.carrier.sent[other][0] != house.carrier.sent[hung][0]
    house.carrier.answer(other)
    await house.turn()
    assert values_of(request) == [2.0]
    assert house.counted() == (1, 1, before[2], before[3])


async def test_nobody_waits_for_a_candidate_while_another_version_has_room():
    house = Trial("a", "b")
    house.balance.on_endpoint("b", {"m": frozenset({1})}, now=house.now)
    requests = [house.tried(float(number)) for number in range(6)]
    await house.turn()
    sent = {address: batch.pinned for address, batch, _ in house.carrier.sent.values()}
    assert sent == {"a": 2, "b": 0}
    while house.carrier.sent:
        house.carrier.answer(next(iter(house.carrier.sent)))
        await house.turn()
    assert all(request.answered for request in requests)
    # Those that it had no room for say nothing of it.
    assert house.counted()[1:] == (0, 0, 0)


async def test_what_waits_when_a_rollout_ends_is_not_tried():
    house = Trial("a")
    house.ask(1.0)
    await house.turn()
    request = house.tried(2.0)
    house.current = None
    await house.answer()
    assert house.carrier.sent[house.only_sent()][1].pinned == 0
    await house.answer()
    assert values_of(request) == [4.0]
