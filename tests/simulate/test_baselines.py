"""The baselines do what they are said to do, in cases small enough to follow by hand.

One replica: a batch of b rows takes 1 + b seconds; at most 4 rows; due 10 s after arrival.
"""

from __future__ import annotations

import random

import pytest

from benchmarks.simulate.arrivals import Arrival
from benchmarks.simulate.baselines import Deferred, Timer, WhileBusy
from benchmarks.simulate.lines import Line, drop_expired, drop_hopeless, drop_none, drop_window
from benchmarks.simulate.replica import Speed
from benchmarks.simulate.request import Request
from benchmarks.simulate.spreading import Spread, Stale, round_robin, shortest_queue, two_choices
from benchmarks.simulate.world import Gateway, Plant, World

SLOW = Plant(replicas=1, speed=Speed(1.0, 1.0), slo_s=10.0, max_rows=4)


def run(make, *at_s: float, plant: Plant = SLOW) -> World:
    world = World(plant, 1)
    gateway: Gateway = make(world)
    world.ask([Arrival(at) for at in at_s], gateway)
    world.clock.run(100.0)
    return world


def batches(world: World) -> list[tuple[float, int]]:
    """When each began, and its rows."""
    spans = [span for replica in world.replicas for span in replica.history]
    return sorted((span.began_at, span.rows) for span in spans)


def test_a_timer_waits_for_others_from_the_first_on():
    world = run(lambda world: Timer(world, delay_s=0.5), 0.0, 0.4, 0.6)
    # The third waits for the replica longer than for the timer.
    assert batches(world) == [(0.5, 2), (3.5, 1)]


def test_a_timer_sends_a_full_batch_at_once():
    world = run(lambda world: Timer(world, delay_s=5.0), 0.0, 0.1, 0.2, 0.3, 0.4)
    assert batches(world)[0] == (0.3, 4)


def test_a_timer_drops_nothing_however_late():
    world = run(lambda world: Timer(world, delay_s=0.1), *[0.0] * 12)
    assert [rows for _, rows in batches(world)] == [4, 4, 4]
    assert sum(request.in_time for request in world.requests) == 8


def test_an_idle_replica_takes_what_waits_at_once():
    world = run(WhileBusy, 0.0, 0.5, 1.0, 9.0)
    assert batches(world) == [(0.0, 1), (2.0, 2), (9.0, 1)]


def test_the_longest_idle_replica_is_asked_first():
    world = run(WhileBusy, 0.0, 0.1, 5.0, plant=Plant(2, Speed(1.0, 1.0), 10.0, 4))
    assert [len(replica.history) for replica in world.replicas] == [2, 1]


@pytest.mark.parametrize(
    ("drop", "sizes", "late"),
    [
        # At 7 s those that are left are due in 3 s: enough for 2 rows, and 4 take 5 s.
        (drop_none, [1, 4, 4, 4], 8),
        (drop_expired, [1, 4, 4], 4),
        (drop_hopeless, [1, 4, 4], 4),
        (drop_window, [1, 4, 2], 0),
    ],
)
def test_what_is_dropped_when_more_comes_than_can_be_done(drop, sizes, late):
    world = run(lambda world: WhileBusy(world, drop=drop), *[0.0] * 13)
    assert [rows for _, rows in batches(world)] == sizes
    assert sum(not request.in_time and not request.lost for request in world.requests) == late
    assert sum(bool(request.lost) for request in world.requests) == 13 - sum(sizes)


def test_hopeless_heads_go_before_those_that_only_expired():
    world = run(lambda world: WhileBusy(world, drop=drop_hopeless), 0.0, *[1.0] * 9)
    # Batches begin at 0, 2 and 7; at 12 the last one is late, and at 7 it still was not.
    assert batches(world) == [(0.0, 1), (2.0, 4), (7.0, 4)]
    assert [request.lost for request in world.requests if request.lost] == ["LATE"]


def test_window_drop_gives_up_heads_that_would_keep_a_batch_small():
    # At 7 s heads due at 11 fit a batch of 3; behind them wait 4 that are due at 16.
    line = Line()
    for due_at in (11.0, 11.0, 16.0, 16.0, 16.0, 16.0):
        line.add(Request(SLOW.key(), 0.0, due_at))
    heads = list(line.requests)[:2]
    assert drop_window(line, 7.0, SLOW.speed, 4) == 8
    assert [request.lost for request in heads] == ["GIVEN_UP"] * 2
    assert line.rows == 4


def test_deferred_batches_leave_as_late_as_they_can():
    world = run(Deferred, 0.0, 3.0)
    # Two rows take 3 s and three would take 4: due at 10, they leave at 6.
    assert batches(world) == [(6.0, 2)]
    assert all(request.in_time for request in world.requests)


def test_a_batch_that_fails_is_lost_to_a_baseline():
    world = World(SLOW, 1)
    world.ask([Arrival(0.0)], WhileBusy(world))
    world.clock.at(1.0, world.replicas[0].kill)
    world.clock.run(5.0)
    assert [request.lost for request in world.requests] == ["FAILED"]


def test_the_way_takes_time_in_both_directions():
    plant = Plant(1, Speed(1.0, 1.0), 10.0, 4, way_s=0.25)
    world = run(WhileBusy, 0.0, plant=plant)
    assert batches(world) == [(0.25, 1)]
    assert world.requests[0].answered_at == 2.5


def test_round_robin_takes_turns():
    choose = round_robin()
    assert [choose([5, 0, 0]) for _ in range(4)] == [1, 2, 0, 1]


def test_the_shortest_queue_is_chosen():
    assert shortest_queue()([3, 1, 2]) == 1


def test_two_choices_never_take_the_most_loaded_of_all():
    choose = two_choices(random.Random(1))
    chosen = [choose([1, 9, 2]) for _ in range(300)]
    assert 1 not in chosen
    assert set(chosen) == {0, 2}


def test_requests_are_bound_to_a_replica_as_they_come():
    plant = Plant(2, Speed(1.0, 1.0), 10.0, 4)
    world = run(lambda world: Spread(world, round_robin()), *[0.0] * 4, plant=plant)
    assert [[span.rows for span in one.history] for one in world.replicas] == [[1, 1], [1, 1]]


def test_a_stale_gateway_adds_what_it_sent_to_what_it_saw():
    plant = Plant(2, Speed(1.0, 1.0), 10.0, 4)
    world = World(plant, 1)
    queues = [WhileBusy(world, [replica]) for replica in world.replicas]
    gateway = Stale(world, queues, every_s=50.0, name="a")
    world.ask([Arrival(0.0)] * 4, gateway)
    world.clock.run(0.0)
    # In turns, as far as it knows; of what others sent it hears at its next look.
    assert [queue.rows for queue in queues] == [2, 2]
