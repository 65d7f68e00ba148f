"""The capacity search against a server that is a number, and the words of an objective."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import InvalidArgument
from headrace.load.arrivals import Arrivals
from headrace.load.capacity import LOWEST_RATE, CapacitySearch, Objective, Trial, judged
from headrace.load.latencies import Latencies
from headrace.load.plan import LoadPlan
from headrace.load.results import LoadResult
from headrace.load.tally import Tally


def searched(search, holds):
    """Runs a search on a server for which `holds` tells whether a rate does; the rates tried."""
    tried = []
    while (rate := search.next_rate()) is not None:
        tried.append(rate)
        assert len(tried) < 100
        search.on_trial(Trial(rate, holds(rate)))
    return tried


@given(
    st.floats(LOWEST_RATE * 2, 1e5),
    st.floats(1, 1e4),
    st.floats(0.01, 0.5),
)
def test_it_finds_the_capacity_to_the_precision(capacity, first, precision):
    search = CapacitySearch(first, precision)
    tried = searched(search, lambda rate: rate <= capacity)
    assert search.capacity <= capacity < search.lowest_miss
    assert search.lowest_miss - search.capacity <= precision * search.capacity * (1 + 1e-9)
    assert len(set(tried)) == len(tried)
    assert len(tried) < 40


@given(st.lists(st.booleans(), min_size=100, max_size=100), st.floats(1, 1e4))
def test_it_ends_whatever_a_noisy_server_says(verdicts, first):
    answers = iter(verdicts)
    search = CapacitySearch(first, 0.05, most_rate=1e5)
    tried = searched(search, lambda _rate: next(answers))
    assert len(tried) < 60
    if search.lowest_miss is not None:
        assert search.lowest_miss > search.capacity


def test_it_doubles_then_bisects():
    search = CapacitySearch(100, 0.1)
    assert searched(search, lambda rate: rate <= 650) == [100, 200, 400, 800, 600, 700, 650]
    assert search.capacity == 650


def test_it_halves_where_the_first_rate_is_too_much():
    search = CapacitySearch(100, 0.2)
    assert searched(search, lambda rate: rate <= 20)[:4] == [100, 50, 25, 12.5]


def test_a_server_that_holds_nothing_has_no_capacity():
    search = CapacitySearch(10)
    searched(search, lambda _rate: False)
    assert search.capacity == 0


def test_a_server_without_a_limit_is_tried_up_to_the_bound():
    search = CapacitySearch(10, most_rate=100)
    assert searched(search, lambda _rate: True) == [10, 20, 40, 80, 100]
    assert search.lowest_miss is None


def test_a_miss_of_the_generator_is_told():
    search = CapacitySearch(10)
    search.on_trial(Trial(10, True))
    search.on_trial(Trial(20, False, "p99 60.0 ms", inconclusive=True))
    assert search.limited_by_generator
    search.on_trial(Trial(15, False, "p99 60.0 ms"))
    assert not search.limited_by_generator


@pytest.mark.parametrize(
    ("text", "percentile", "limit_s"),
    [("p99<50ms", 99, 0.05), ("p99.9<=1s", 99.9, 1.0), (" p50 < 800us ", 50, 0.0008)],
)
def test_an_objective_in_words(text, percentile, limit_s):
    found = Objective.of_text(text, 0.01)
    assert (found.percentile, found.limit_s) == (percentile, pytest.approx(limit_s))


@pytest.mark.parametrize("text", ["", "p99", "99<50ms", "p99<50", "p101<1s", "p99>1ms", "p0<1ms"])
def test_an_objective_that_says_nothing_is_refused(text):
    with pytest.raises(InvalidArgument) as caught:
        Objective.of_text(text, 0.01)
    assert caught.value.reason == "BAD_OBJECTIVE"


@pytest.mark.parametrize(("first", "precision"), [(0, 0.1), (10, 0), (1e9, 0.1), (10, 1)])
def test_a_search_that_cannot_end_is_refused(first, precision):
    with pytest.raises(InvalidArgument):
        CapacitySearch(first, precision)


def result(latencies_s, *, failed=0, lag_s=0.0):
    tally = Tally()
    for number, latency_s in enumerate(latencies_s):
        tally.on_offered(number)
        tally.on_answer(number, latency_s, good=True, version="1")
    for number in range(failed):
        tally.on_offered(number)
        tally.on_failure(number, "UNAVAILABLE", "")
    lag = Latencies()
    lag.record(lag_s)
    plan = LoadPlan(address="h:1", model="m", arrivals=Arrivals.at_rate(1, 1))
    return LoadResult(plan, 0, 1.0, True, {("default", ""): tally}, lag, 0.0, len(latencies_s))


def test_a_trial_is_judged_by_latency_and_by_what_was_lost():
    objective = Objective(99, 0.05, 0.1)
    assert judged(5, result([0.01] * 99 + [0.04]), objective).met
    slow = judged(5, result([0.01] * 90 + [0.08] * 10), objective)
    assert not slow.met and slow.cause.startswith("p99 80.")
    lost = judged(5, result([0.01] * 80, failed=20), objective)
    assert not lost.met and "20.0% not answered" in lost.cause
    assert not judged(5, result([]), objective).met


def test_a_late_generator_proves_only_what_held():
    objective = Objective(99, 0.05)
    assert judged(5, result([0.049] * 100, lag_s=0.04), objective) == Trial(5, True)
    assert judged(5, result([0.08] * 100, lag_s=0.06), objective).inconclusive
