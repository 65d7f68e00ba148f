"""Quotas: bare floats for time; what is refused, when it would be let in, and what never leaks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.policy.quota import Meter, Quota

rates = st.floats(0.1, 1e4)
sizes = st.integers(0, 100_000)


def test_without_a_quota_nothing_is_refused():
    meter = Meter(Quota(), now=0.0)
    assert all(meter.enter(10**12, now=0.0) is None for _ in range(1000))
    assert meter.quota.unbounded
    assert meter.snapshot().concurrent == 1000


def test_requests_at_and_over_the_burst():
    meter = Meter(Quota(requests_per_s=2, burst_requests=3), now=5.0)
    assert [meter.enter(0, now=5.0) is None for _ in range(4)] == [True, True, True, False]
    refusal = meter.enter(0, now=5.1)
    assert (refusal.reason, refusal.sentence) == (
        "QUOTA_REQUESTS",
        "2 requests per second are allowed",
    )
    assert refusal.retry_after_s == pytest.approx(0.4)
    assert meter.enter(0, now=5.5) is None


def test_the_default_burst_is_one_second_and_at_least_one_request():
    meter = Meter(Quota(requests_per_s=0.5), now=0.0)
    assert meter.enter(0, now=0.0) is None
    assert meter.enter(0, now=1.0).retry_after_s == pytest.approx(1.0)
    assert meter.enter(0, now=2.0) is None


def test_bytes_at_and_over_the_burst():
    meter = Meter(Quota(bytes_per_s=100), now=0.0)
    assert meter.enter(100, now=0.0) is None
    refusal = meter.enter(1, now=0.0)
    assert refusal.reason == "QUOTA_BYTES"
    assert refusal.sentence == "100 bytes per second are allowed; this message has 1"
    assert refusal.retry_after_s == pytest.approx(0.01)


def test_a_message_larger_than_the_burst_is_let_in_by_a_full_bucket_and_paid_off():
    meter = Meter(Quota(bytes_per_s=100), now=0.0)
    assert meter.enter(1000, now=0.0) is None
    assert meter.snapshot().size_bytes == -900
    assert meter.enter(1, now=9.0).retry_after_s == pytest.approx(0.01)
    assert meter.enter(1, now=9.02) is None


def test_requests_at_once_at_and_over_the_bound():
    meter = Meter(Quota(max_concurrent=2), now=0.0)
    assert meter.enter(0, now=0.0) is None
    assert meter.enter(0, now=0.0) is None
    refusal = meter.enter(0, now=99.0)
    assert (refusal.reason, refusal.retry_after_s) == ("QUOTA_CONCURRENCY", None)
    meter.leave()
    assert meter.enter(0, now=99.0) is None


def test_what_is_refused_takes_nothing():
    meter = Meter(Quota(requests_per_s=1, bytes_per_s=10, max_concurrent=5), now=0.0)
    assert meter.enter(10, now=0.0) is None
    before = meter.snapshot()
    assert meter.enter(10, now=0.0) is not None
    assert meter.snapshot() == before


def test_a_changed_quota_keeps_the_requests_under_way():
    meter = Meter(Quota(max_concurrent=5), now=0.0)
    meter.enter(0, now=0.0)
    meter.change(Quota(max_concurrent=1), now=0.0)
    assert meter.enter(0, now=0.0).reason == "QUOTA_CONCURRENCY"
    meter.leave()
    assert meter.enter(0, now=0.0) is None


def test_a_quota_that_stays_the_same_keeps_what_was_taken():
    meter = Meter(Quota(requests_per_s=1), now=0.0)
    meter.enter(0, now=0.0)
    meter.change(Quota(requests_per_s=1), now=0.0)
    assert meter.enter(0, now=0.0) is not None


@given(rates, rates, st.lists(st.tuples(st.floats(0, 3), sizes), max_size=60))
def test_waiting_as_told_is_enough(requests_per_s, bytes_per_s, asked):
    """Each bucket may ask for its own wait, so that two are enough."""
    meter, now = Meter(Quota(requests_per_s, bytes_per_s), now=0.0), 0.0
    for pause, size_bytes in asked:
        now += pause
        refusal = meter.enter(size_bytes, now=now)
        for _ in range(2):
            if refusal is not None:
                assert refusal.retry_after_s > 0
                now += refusal.retry_after_s
                refusal = meter.enter(size_bytes, now=now)
        assert refusal is None


@given(rates, st.floats(1, 50), st.lists(st.floats(0, 0.5), max_size=80))
def test_no_span_lets_more_in_than_burst_and_rate(rate, burst, pauses):
    meter, now = Meter(Quota(requests_per_s=rate, burst_requests=burst), now=0.0), 0.0
    entered = []
    for pause in pauses:
        now += pause
        if meter.enter(0, now=now) is None:
            entered.append(now)
    for first, since in enumerate(entered):
        for last, until in enumerate(entered[first:], first):
            assert last - first + 1 <= burst + rate * (until - since) + 1e-3


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=60))
def test_no_more_at_once_than_allowed(bound, moves):
    meter, inside = Meter(Quota(max_concurrent=bound), now=0.0), 0
    for entering in moves:
        if entering:
            admitted = meter.enter(0, now=0.0) is None
            assert admitted == (inside < bound)
            inside += admitted
        elif inside:
            meter.leave()
            inside -= 1
        assert meter.snapshot().concurrent == inside
