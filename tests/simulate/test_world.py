"""The simulator itself: time, replicas, determinism, and that each request ends in one way."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import takewhile

import pytest

from benchmarks.simulate.arrivals import Kind, poisson, some_rows
from benchmarks.simulate.clients import Retries
from benchmarks.simulate.clock import Clock
from benchmarks.simulate.outcome import Outcome, batch_rows
from benchmarks.simulate.policies import BALANCERS, OURS, POLICIES
from benchmarks.simulate.replica import Replica, Speed
from benchmarks.simulate.request import Request
from benchmarks.simulate.scenarios import scale
from benchmarks.simulate.scenarios.failures import run_stopped
from benchmarks.simulate.scenarios.steady import REFERENCE, gateway_of, run_steady
from benchmarks.simulate.world import Plant, World

GATEWAYS = {**POLICIES, **BALANCERS}
SECONDS = 0.5


def replica(clock: Clock, speed: Speed | None = None) -> Replica:
    return Replica(clock, speed or Speed(1.0, 0.5), random.Random(1))


def crowded(policy: str, load: float = 2.0, seed: int = 1) -> World:
    """A world with requests of 1 to 8 rows, a kill and a stop, after everything has ended."""
    plant = replace(REFERENCE, models=2)
    world = World(plant, seed)
    arrivals = poisson(
        world.draw("arrivals"), load * plant.capacity / 4.5, Kind(some_rows, models=(0, 1))
    )
    world.ask(takewhile(lambda one: one.at_s < SECONDS, arrivals), gateway_of(policy)(world))
    world.clock.at(0.2, world.replicas[0].kill)
    world.clock.at(0.3, world.replicas[0].revive)
    world.clock.at(0.25, world.replicas[1].stop)
    world.clock.at(0.35, world.replicas[1].go_on)
    world.clock.run(20.0)
    return world


def fates(world: World) -> list[tuple[float, float, str]]:
    return [(one.arrived_at, one.answered_at, one.lost) for one in world.requests]


def test_the_clock_acts_in_order_of_time_and_then_of_scheduling():
    clock, seen = Clock(), []
    for when, name in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (9.0, "never")):
        clock.at(when, lambda name=name: seen.append((clock.now, name)))
    clock.run(3.0)
    assert seen == [(1.0, "a"), (1.0, "b"), (2.0, "c")]
    assert clock.now == 3.0


def test_a_replica_computes_one_batch_after_another():
    clock, ends = Clock(), []
    one = replica(clock)
    one.send(2, lambda: ends.append(clock.now))
    one.send(4, lambda: ends.append(clock.now))
    assert (one.waiting, one.waiting_rows) == (2, 6)
    clock.run(10.0)
    assert ends == [2.0, 5.0]


def test_a_stopped_replica_keeps_its_batch_and_goes_on_with_it():
    clock, ends = Clock(), []
    one = replica(clock)
    one.send(2, lambda: ends.append(clock.now))
    clock.at(0.5, one.stop)
    clock.at(7.0, one.go_on)
    clock.run(10.0)
    assert ends == [8.5]


def test_a_killed_replica_loses_what_it_has_and_refuses_more():
    clock, told = Clock(), []
    one = replica(clock)
    one.watchers.append(lambda: told.append(("seen", one.alive)))
    one.send(2, lambda: told.append("done"), lambda: told.append("failed"))
    clock.at(1.0, one.kill)
    clock.at(2.0, lambda: one.send(2, lambda: None, lambda: told.append("refused")))
    clock.at(3.0, one.revive)
    clock.at(4.0, lambda: one.send(2, lambda: told.append(clock.now)))
    clock.run(10.0)
    assert told == [("seen", False), "failed", "refused", ("seen", True), 6.0]


def test_noise_spreads_what_batches_take_around_what_they_should():
    clock = Clock()
    one = replica(clock, Speed(1.0, 0.0, noise=0.2))
    for _ in range(400):
        one.send(1, lambda: None)
    clock.run(1000.0)
    taken = [span.ended_at - span.began_at for span in one.history]
    assert sum(taken) / 400 == pytest.approx(1.0, abs=0.05)
    assert max(taken) > 1.3


def test_capacity_is_that_of_the_batch_that_fits_the_objective():
    assert REFERENCE.best_rows == 64
    assert REFERENCE.capacity == pytest.approx(4 * 64 / 0.021)
    # (1 + 1/4) * 1.03 * l(b) <= 20 ms
    assert Plant(slo_s=0.02).best_rows == 42


def test_a_request_ends_once():
    request = Request(REFERENCE.key(), 0.0, 1.0)
    request.lose("LATE")
    with pytest.raises(AssertionError, match="after its end"):
        request.answer(0.5)
    with pytest.raises(AssertionError, match="after its end"):
        request.lose("LATE")


@pytest.mark.parametrize("policy", GATEWAYS)
def test_requests_end_once_and_replicas_compute_one_batch_at_a_time(policy):
    # That none ends twice is asserted by the requests themselves.
    world = crowded(policy)
    assert len(world.requests) > 1000
    assert all(request.ended for request in world.requests)
    for one in world.replicas:
        ends = [span.ended_at for span in one.history]
        begins = [span.began_at for span in one.history]
        assert all(end <= begin for end, begin in zip(ends, begins[1:], strict=False))
        assert max(span.rows for span in one.history) <= REFERENCE.max_rows


@pytest.mark.parametrize("policy", GATEWAYS)
def test_a_seed_decides_everything(policy):
    first = fates(crowded(policy, seed=7))
    assert first == fates(crowded(policy, seed=7))
    assert first != fates(crowded(policy, seed=8))


@pytest.mark.parametrize("policy", [OURS, "while busy, window drop"])
def test_goodput_is_no_more_than_the_replicas_can_do(policy):
    # What was under way before the window may end in it: one batch of each replica.
    found = run_steady(1, 2.0, policy=policy, load=3.0)
    window_s = 2.0 - 0.6 - 0.1
    assert found["goodput"] <= 1 + REFERENCE.replicas * 64 / (REFERENCE.capacity * window_s)


def test_policies_see_the_same_arrivals():
    times = {
        tuple(request.arrived_at for request in crowded(policy).requests)
        for policy in ("timer 5 ms", OURS)
    }
    assert len(times) == 1


def test_an_outcome_counts_rows_losses_and_percentiles():
    key = REFERENCE.key()
    good, late, lost = (Request(key, at, at + 1.0, rows=2) for at in (1.0, 2.0, 3.0))
    good.answer(1.5)
    late.answer(3.5)
    lost.lose("WOULD_BE_LATE")
    outcome = Outcome.of([good, late, lost, Request(key, 9.0, 10.0)], 1.0, 5.0)
    assert (outcome.rows, outcome.good_rows, outcome.in_slo) == (6, 2, pytest.approx(1 / 3))
    assert outcome.late_share == 0.5
    assert [outcome.percentile_s(share) for share in (0.0, 0.99)] == [0.5, 1.5]
    assert outcome.figures(capacity=0.5)["goodput"] == 1.0
    assert outcome.figures(capacity=0.5)["refused"] == pytest.approx(1 / 3)


def test_batches_are_counted_by_when_they_began():
    clock = Clock()
    one = replica(clock)
    for rows in (6, 2, 4):
        one.send(rows, lambda: None)
    clock.run(20.0)
    assert batch_rows([one], 0.0, 20.0) == [2, 4, 6]
    assert batch_rows([one], 1.0, 6.0) == [2]


def test_clients_try_again_after_a_loss_and_once_overdue_and_then_give_up():
    world = World(REFERENCE, 1)

    class Deaf:
        """Loses the first, says nothing of the others."""

        def __init__(self) -> None:
            self.seen: list[Request] = []

        def offer(self, request: Request) -> None:
            self.seen.append(request)
            if len(self.seen) == 1:
                request.retry_after_s = 0.2
                request.lose("WOULD_BE_LATE")

    deaf = Deaf()
    clients = Retries(world, deaf)
    first = Request(REFERENCE.key(), 0.0, 0.05)
    clients.watch(first)
    deaf.offer(first)
    world.clock.run(5.0)
    assert [request.tries for request in deaf.seen] == [0, 1, 2, 3]
    assert 0.1 <= deaf.seen[1].arrived_at <= 0.3
    # Overdue after 50 ms, then 20 ms doubled each time, give or take a half.
    wait_s = deaf.seen[2].arrived_at - deaf.seen[1].arrived_at - 0.05
    assert 0.01 <= wait_s <= 0.03
    assert Counter(request.lost for request in deaf.seen) == {"WOULD_BE_LATE": 1, "": 3}


def test_a_stopped_replica_costs_no_more_than_what_it_had():
    assert run_stopped(1, 4.0, policy=OURS, load=0.5)["bad"] <= REFERENCE.max_rows


@pytest.mark.parametrize("team", scale.TEAMS)
def test_several_gateways_lose_nothing(team):
    found = scale.run_gateways(1, 0.6, team=scale.TEAMS[team], count=4, load=0.3)
    assert found["in_slo"] + found["refused"] + found["given_up"] + found["late"] >= 0.999
    assert found["in_slo"] > 0.9


def test_more_replicas_are_simulated():
    found = scale.run_replicas(1, 0.1, replicas=64, load=0.05)
    assert found["in_slo"] == 1.0
