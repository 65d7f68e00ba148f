"""When a run publishes, with bare floats for time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.policy.publish_policy import RETRY_S, PublishPolicy, PublishRule, Reason


def stepped(policy: PublishPolicy, steps: range, *, at: float = 0.0) -> list[int]:
    """Steps at which something was due, the clock standing at `at`."""
    due = []
    for step in steps:
        policy.on_step(step)
        if policy.take_due(at) is not None:
            due.append(step)
    return due


def test_every_n_steps_on_a_grid_that_survives_a_restart():
    rule = PublishRule(every_steps=10)
    assert stepped(PublishPolicy(rule, now=0), range(1, 35)) == [10, 20, 30]
    assert stepped(PublishPolicy(rule, now=0, step=17), range(18, 35)) == [20, 30]


def test_every_t_seconds_keeps_its_period_though_publishing_takes_time():
    policy = PublishPolicy(PublishRule(every_s=2), now=100.0)
    taken = []
    for tick in range(1, 100):
        now = 100 + tick * 0.1
        policy.on_step(tick)
        if policy.take_due(now) is not None:
            taken.append(round(now, 1))
    assert taken == [102.0, 104.0, 106.0, 108.0]


def test_time_alone_does_not_publish_the_same_weights_again():
    policy = PublishPolicy(PublishRule(every_s=1), now=0.0)
    policy.on_step(1)
    assert policy.take_due(5.0) is Reason.SECONDS
    assert policy.next_wakeup() is None
    assert policy.take_due(50.0) is None
    policy.on_step(2)
    assert policy.take_due(50.0) is Reason.SECONDS


def test_a_long_absence_is_one_publication():
    policy = PublishPolicy(PublishRule(every_s=1), now=0.0)
    policy.on_step(1)
    assert policy.take_due(10.5) is Reason.SECONDS
    policy.on_step(2)
    assert policy.take_due(10.6) is None
    assert policy.next_wakeup() == pytest.approx(11.5)


@pytest.mark.parametrize(
    ("minimize", "values", "improving"),
    [
        (False, [0.5, 0.5, 0.6, math.nan, 0.55, math.inf, 0.61], [0.5, 0.6, 0.61]),
        (True, [0.5, 0.6, 0.4, -math.inf, 0.4, 0.39], [0.5, 0.4, 0.39]),
    ],
)
def test_a_metric_publishes_when_it_improves(minimize, values, improving):
    policy = PublishPolicy(PublishRule(metric="auc", minimize=minimize), now=0)
    published = []
    for step, value in enumerate(values, start=1):
        policy.on_step(step)
        policy.on_evaluation({"auc": value, "loss": 3.0})
        if policy.take_due(0.0) is Reason.METRIC:
            published.append(value)
    assert published == improving
    assert policy.snapshot().best == improving[-1]


def test_the_best_so_far_survives_a_restart():
    policy = PublishPolicy(PublishRule(metric="auc"), now=0, step=5, best=0.9)
    policy.on_step(6)
    policy.on_evaluation({"auc": 0.8})
    assert policy.take_due(0.0) is None


def test_fresh_weights_are_published_only_where_there_is_no_version():
    rule = PublishRule(every_s=1, metric="auc")
    policy = PublishPolicy(rule, now=0)
    policy.on_evaluation({"auc": 0.1})
    assert policy.take_due(10.0) is None
    policy.on_no_version()
    assert policy.take_due(10.0) is Reason.INITIAL


def test_a_request_publishes_at_once_and_again():
    policy = PublishPolicy(PublishRule(), now=0)
    for _ in range(2):
        policy.on_request()
        assert policy.take_due(0.0) is Reason.REQUEST
    assert policy.take_due(0.0) is None


def test_reasons_of_one_moment_are_one_publication():
    policy = PublishPolicy(PublishRule(every_steps=1, every_s=1, metric="auc"), now=0)
    policy.on_step(1)
    policy.on_evaluation({"auc": 0.1})
    policy.on_request()
    assert policy.take_due(3.0) is Reason.REQUEST
    assert policy.take_due(3.0) is None


@pytest.mark.parametrize(
    ("rule", "due"),
    [
        (PublishRule(every_steps=10), Reason.FINAL),
        (PublishRule(every_s=100), Reason.FINAL),
        (PublishRule(metric="auc"), None),
        (PublishRule(), None),
    ],
)
def test_the_end_publishes_what_is_new_unless_a_metric_gates(rule, due):
    policy = PublishPolicy(rule, now=0)
    policy.on_step(7)
    policy.on_end()
    assert policy.take_due(0.0) is due
    policy.on_end()
    assert policy.take_due(0.0) is None


def test_what_failed_is_due_again_a_little_later():
    policy = PublishPolicy(PublishRule(every_steps=5), now=0)
    assert stepped(policy, range(1, 6)) == [5]
    policy.on_failed(10.0)
    assert policy.take_due(10.0) is None
    assert policy.next_wakeup() == 10 + RETRY_S
    assert policy.take_due(10 + RETRY_S) is Reason.STEPS
    assert policy.take_due(10 + RETRY_S) is None


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["step", "evaluate", "request", "no_version", "end", "fail", "pass"]),
        st.floats(0, 10),
        st.floats(allow_nan=True, allow_infinity=True),
    ),
    max_size=40,
)
RULES = st.builds(
    PublishRule,
    every_steps=st.integers(0, 5),
    every_s=st.one_of(st.just(0.0), st.floats(0, 20), st.floats(0, 1e-12)),
    metric=st.sampled_from(["", "m"]),
    minimize=st.booleans(),
)


@given(RULES, EVENTS, st.floats(0, 1e9))
def test_progress_and_no_repetition(rule, events, start):
    """After draining, the next wakeup is later; without a request, no step is published twice."""
    policy, now, step, published = PublishPolicy(rule, now=start), start, 0, []
    for kind, delay, value in events:
        now += delay
        reasons = []
        if kind == "step":
            step += 1
            policy.on_step(step)
        elif kind == "evaluate":
            policy.on_evaluation({"m": value})
        elif kind == "request":
            policy.on_request()
        elif kind == "no_version":
            policy.on_no_version()
        elif kind == "end":
            policy.on_end()
        while (reason := policy.take_due(now)) is not None:
            reasons.append(reason)
            assert len(reasons) == 1, "one moment, one publication"
        wakeup = policy.next_wakeup()
        assert wakeup is None or wakeup > now
        if reasons and kind == "fail":
            policy.on_failed(now)
            assert policy.next_wakeup() > now
        elif reasons and reasons[0] not in (Reason.REQUEST, Reason.INITIAL):
            published.append(step)
    assert published == sorted(set(published))


@given(RULES, st.integers(1, 200))
def test_what_was_due_when_the_store_was_away_is_published_once_it_is_back(rule, steps):
    policy = PublishPolicy(rule, now=0.0)
    now = 0.0
    for step in range(1, steps + 1):
        now += 1.0
        policy.on_step(step)
        policy.on_evaluation({"m": float(step)})
        if policy.take_due(now) is not None:
            policy.on_failed(now)
    due = policy.snapshot().due
    wakeup = policy.next_wakeup()
    if due:
        assert policy.take_due(max(now, wakeup)) is min(due)
        assert policy.snapshot().published_step == steps
