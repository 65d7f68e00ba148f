"""What becomes of a failed batch, and that retries stay a small part of the traffic."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.policy.agreement import agreed
from gateway.policy.retry import EARNED_PER_SUCCESS, MAX_TOKENS, Fault, RetryPolicy, Verdict


@pytest.mark.parametrize(
    ("fault", "requests", "elsewhere", "verdict"),
    [
        (Fault.BROKEN, 5, True, Verdict.RETRY),
        (Fault.BROKEN, 1, False, Verdict.RETRY),
        (Fault.REFUSED, 5, True, Verdict.RETRY),
        (Fault.REFUSED, 5, False, Verdict.GIVE_UP),
        (Fault.INPUT, 5, True, Verdict.ISOLATE),
        (Fault.INPUT, 1, True, Verdict.GIVE_UP),
        (Fault.DEFECT, 5, False, Verdict.ISOLATE),
        (Fault.DEFECT, 1, True, Verdict.RETRY),
        (Fault.DEFECT, 1, False, Verdict.GIVE_UP),
        (Fault.FINAL, 5, True, Verdict.GIVE_UP),
    ],
)
def test_the_fault_decides(fault, requests, elsewhere, verdict):
    policy = RetryPolicy(max_attempts=3)
    assert policy.decide(fault, attempts=1, requests=requests, elsewhere=elsewhere) is verdict


def test_attempts_are_bounded():
    policy = RetryPolicy(max_attempts=3)
    verdicts = [
        policy.decide(Fault.BROKEN, attempts=attempts, requests=1, elsewhere=True)
        for attempts in (1, 2, 3)
    ]
    assert verdicts == [Verdict.RETRY, Verdict.RETRY, Verdict.GIVE_UP]


@given(st.lists(st.booleans(), max_size=1500))
@settings(max_examples=30, deadline=None)
def test_retries_are_paid_for(successes):
    policy = RetryPolicy(max_attempts=3)
    retries = 0
    for success in successes:
        if success:
            policy.on_success()
        else:
            verdict = policy.decide(Fault.BROKEN, attempts=1, requests=1, elsewhere=True)
            retries += verdict is Verdict.RETRY
        assert 0 <= policy.snapshot().tokens <= MAX_TOKENS
    assert retries <= MAX_TOKENS + EARNED_PER_SUCCESS * sum(successes)
    assert policy.snapshot().allowed == retries
    assert policy.snapshot().refused == len(successes) - sum(successes) - retries


def test_most_endpoints_decide_and_the_current_description_wins_a_tie():
    assert agreed(None, ["a", "b", "b"]) == "b"
    assert agreed("a", ["a", "b"]) == "a"
    assert agreed("b", ["a", "b"]) == "b"
    assert agreed("a", ["a", "b", "b"]) == "b"
    assert agreed("a", ["b"]) == "b"
    assert agreed("a", []) == "a"
    assert agreed(None, []) is None


def test_wrong_input_is_isolated_whatever_the_budget_and_the_attempts():
    policy = RetryPolicy(max_attempts=3)
    for _ in range(1000):
        verdict = policy.decide(Fault.INPUT, attempts=3, requests=2, elsewhere=False)
        assert verdict is Verdict.ISOLATE, "or neighbours would be told of another's input"
    assert policy.snapshot().tokens == MAX_TOKENS


@pytest.mark.parametrize("fault", list(Fault))
def test_an_answer_that_has_begun_is_not_begun_again(fault):
    policy = RetryPolicy(max_attempts=3)
    verdict = policy.decide(fault, attempts=1, requests=1, elsewhere=True, begun=True)
    assert verdict is Verdict.GIVE_UP
