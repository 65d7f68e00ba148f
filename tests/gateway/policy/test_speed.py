"""Speeds: a batch's own time, who is slow, who sits on a batch, what the fleet can do."""

from __future__ import annotations

import itertools

import pytest

from gateway.policy.speed import OVERDUE_AT_LEAST_S, PROBE_EVERY_S, Speeds

FLIGHTS = itertools.count(1)


def run(core: Speeds, address: str, seconds: float, *, rows: int = 4, count: int = 40) -> None:
    """So many batches, one after the other, of two sizes."""
    for number in range(count):
        flight, size = next(FLIGHTS), rows if number % 2 else 2 * rows
        core.on_sent(flight, address, "m", size, float(number))
        core.on_answered(flight, number + seconds * size)


def test_a_batch_behind_another_counts_from_that_one_s_answer():
    core = Speeds()
    core.on_sent(1, "a", "m", 8, 0.0)
    core.on_sent(2, "a", "m", 8, 0.1)
    core.on_answered(1, 1.0)
    core.on_answered(2, 2.0)
    assert core.latency("a", "m").predict(8) == pytest.approx(1.0)


def test_a_batch_behind_a_failed_one_counts_from_that_one_s_end():
    core = Speeds()
    run(core, "a", 0.01)
    for flight, at in ((9001, 100.0), (9002, 100.1), (9003, 100.1)):
        core.on_sent(flight, "a", "m", 10, at)
    # The endpoint had no room for the third, and went on with the first.
    core.on_ended(9003, 100.2)
    core.on_ended(9001, 102.0)
    seen = core.on_answered(9002, 102.1)
    assert seen is not None
    assert seen.seconds == pytest.approx(0.1)


def test_what_is_in_flight_ends_one_after_the_other():
    core = Speeds()
    run(core, "a", 0.01)
    assert core.ends_at("a") == core.ends_at("unknown") == float("-inf")
    core.on_sent(9001, "a", "m", 10, 100.0)
    core.on_sent(9002, "a", "m", 10, 100.0)
    assert core.ends_at("a") == pytest.approx(100.2, rel=0.001)
    core.on_ended(9002, 100.0)
    assert core.ends_at("a") == pytest.approx(100.1, rel=0.001)


@pytest.mark.parametrize("answered", [True, False], ids=["answered", "failed"])
@pytest.mark.parametrize("at", [100.02, 100.9], ids=["sooner", "later"])
def test_what_is_behind_a_batch_is_expected_from_when_that_one_ended(answered, at):
    core = Speeds()
    run(core, "a", 0.01)
    for flight in (9001, 9002, 9003):
        core.on_sent(flight, "a", "m", 10, 100.0)
    if answered:
        core.on_answered(9001, at)
    else:
        core.on_ended(9001, at)
    each_s = core.latency("a", "m").predict(10)
    assert core.ends_at("a") == pytest.approx(at + 2 * each_s)
    core.on_sent(9004, "a", "m", 10, at)
    assert core.ends_at("a") == pytest.approx(at + 3 * each_s)


def test_one_that_ends_out_of_turn_says_nothing_of_those_before_it():
    core = Speeds()
    run(core, "a", 0.01)
    core.on_sent(9001, "a", "m", 10, 100.0)
    core.on_sent(9002, "a", "m", 10, 100.0)
    core.on_ended(9002, 100.05)
    assert core.ends_at("a") == pytest.approx(100.1, rel=0.001)


def test_one_that_is_ten_times_slower_is_slow_and_left_out_of_the_fleet():
    core = Speeds()
    for address, seconds in (("a", 0.001), ("b", 0.001), ("c", 0.01), ("d", 0.002)):
        run(core, address, seconds)
    fleet = core.fleet("m", ["a", "b", "c", "d"], 1000.0)
    assert [core.slow(address, "m") for address in "abcd"] == [False, False, True, False]
    assert core.ratio("c", "m") == pytest.approx(10, rel=0.05)
    assert fleet.replicas == pytest.approx(2.5, rel=0.05)
    assert fleet.seconds(8) == pytest.approx(0.008, rel=0.05)


@pytest.mark.parametrize(
    "row_s, slower_row_s, handicap",
    [
        pytest.param(0.001, 0.0014, 1.0, id="too little"),
        pytest.param(0.001, 0.0016, 1.6, id="noticeable"),
        # Four times as long, and a millisecond in all.
        pytest.param(0.00005, 0.0002, 1.0, id="noise"),
    ],
)
def test_one_that_is_slower_by_more_than_noise_has_a_handicap(row_s, slower_row_s, handicap):
    core = Speeds()
    run(core, "a", row_s)
    run(core, "b", slower_row_s)
    core.fleet("m", ["a", "b"], 1000.0)
    assert core.handicap("a", "m") == 1.0
    assert core.handicap("b", "m") == pytest.approx(handicap, rel=0.01)


def test_endpoints_are_compared_at_the_size_that_batches_have():
    core = Speeds()
    for number in range(40):
        # Both take 21 ms for 64 rows; what few batches told of the slope differs.
        size = 64 if number > 2 else 48
        for address, alpha_s in (("a", 0.0), ("b", 0.010)):
            seconds = alpha_s + (0.021 - alpha_s) * size / 64
            flight = next(FLIGHTS)
            core.on_sent(flight, address, "m", size, float(number))
            core.on_answered(flight, number + seconds)
    assert core.latency("b", "m").predict(1) > 10 * core.latency("a", "m").predict(1)
    assert core.fleet("m", ["a", "b"], 100.0).replicas == pytest.approx(2.0, rel=0.05)
    assert not core.slow("a", "m") and not core.slow("b", "m")


def test_one_that_saw_no_large_batch_yet_is_not_slow_for_it():
    core = Speeds()
    for address in ("a", "b"):
        for number in range(40):
            flight = next(FLIGHTS)
            core.on_sent(flight, address, "m", 1, float(number))
            core.on_answered(flight, number + 0.00525)
    for number in range(100, 140):
        flight = next(FLIGHTS)
        core.on_sent(flight, "a", "m", 64, float(number))
        core.on_answered(flight, number + 0.021)
    core.fleet("m", ["a", "b"], 200.0)
    # A guess on the high side: nobody knows how it does with more rows.
    assert core.latency("b", "m").predict(64) > 3 * core.latency("a", "m").predict(64)
    assert not core.slow("b", "m")
    assert core.ratio("b", "m") < 1.5


def test_an_endpoint_of_which_nothing_is_known_counts_as_one_of_the_others():
    core = Speeds()
    assert core.fleet("m", ["a", "b"], 0.0).replicas == 0
    run(core, "a", 0.001)
    assert core.fleet("m", ["a", "b"], 1000.0).replicas == pytest.approx(2)


def test_one_that_sits_on_a_batch_is_overdue_and_left_out():
    core = Speeds()
    for address in ("a", "b"):
        run(core, address, 0.1)
    core.on_sent(9001, "a", "m", 10, 100.0)
    assert core.overdue_at(9001) == pytest.approx(103.0, rel=0.01)
    assert not core.overdue("a", 102.0)
    assert core.overdue("a", 103.1)
    assert core.fleet("m", ["a", "b"], 103.1).replicas == pytest.approx(1)
    core.on_answered(9001, 104.0)
    assert not core.overdue("a", 104.0)


def test_a_short_batch_is_not_overdue_at_once():
    core = Speeds()
    run(core, "a", 0.0001)
    core.on_sent(9001, "a", "m", 1, 100.0)
    assert core.overdue_at(9001) >= 100.0 + OVERDUE_AT_LEAST_S
    assert core.overdue_at(77) == float("inf")


def test_a_slow_one_is_asked_now_and_then_until_it_has_recovered():
    core = Speeds()
    for address, seconds in (("a", 0.001), ("b", 0.01)):
        run(core, address, seconds)
    core.fleet("m", ["a", "b"], 1000.0)
    assert core.take_probe("m", ["a", "b"], 1000.0) == "b"
    assert core.take_probe("m", ["a", "b"], 1000.0 + PROBE_EVERY_S / 2) is None
    now = 1000.0
    for _ in range(10):
        now += PROBE_EVERY_S
        if core.take_probe("m", ["a", "b"], now) is None:
            break
        flight = next(FLIGHTS)
        core.on_sent(flight, "b", "m", 1, now)
        core.on_answered(flight, now + 0.001)
        core.fleet("m", ["a", "b"], now)
    assert not core.slow("b", "m")


def test_who_is_gone_is_forgotten_with_what_it_had():
    core = Speeds()
    run(core, "a", 0.001)
    core.on_sent(9001, "a", "m", 1, 100.0)
    core.keep(["b"])
    core.on_answered(9001, 101.0)
    assert core.snapshot() == {}
