"""What comes next of a rollout, decided from bare numbers."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.policy.confidence import Sample
from headrace.policy.evidence import Arm, Shadow, View, evidence_of
from headrace.policy.rollout import Abort, Advance, Base, Promote, Wait, decide
from model_store.rollout import Rollout, RolloutPlan
from tests.rollout.figures import CANDIDATE, arm, even, sample, seen

PLAN = RolloutPlan(shares=(0.05, 0.5), stage_s=60.0, min_requests=100)
BASE = Base(version=4, held=False)
GOOD = arm(100)


def decided(evidence=None, plan=PLAN, *, stage=0, base=BASE, elapsed_s=600.0, ready_s=600.0):
    rollout = Rollout(against="stable", stage=stage, plan=plan)
    return decide(rollout, evidence or seen(GOOD), base, elapsed_s=elapsed_s, ready_s=ready_s)


def needs(**changed):
    verdict = decided(**changed)
    assert isinstance(verdict, Wait), verdict
    return verdict.needs


def test_a_stage_that_went_well_is_followed_by_the_next_and_the_last_by_promotion():
    on = decided()
    assert isinstance(on, Advance)
    assert on.reason == "stage 1 of 2 (5 %): 0 of 100 failed, others 0 of 10000; on to 50 %"
    assert isinstance(decided(stage=1), Promote)


def test_a_stage_needs_its_time_and_its_requests():
    assert needs(elapsed_s=59.9) == ("time",)
    assert needs(evidence=seen(arm(99))) == ("requests",)
    assert decided(seen(arm(99)), elapsed_s=1, ready_s=1).reason == (
        "1 of 60 s; 99 of 100 requests"
    )


def test_the_first_stage_counts_from_when_every_endpoint_was_ready():
    assert needs(ready_s=59.0) == ("time",)
    assert isinstance(decided(stage=1, ready_s=59.0), Promote)


def test_without_every_endpoint_nothing_goes_on():
    for stage in (0, 1):
        lacking = decided(seen(GOOD, ready=1), stage=stage, ready_s=None)
        assert "ready on 1 of 2 endpoints" in lacking.reason
    assert needs(evidence=seen(GOOD, silent=("a:1",))) == ("gateways",)
    words = decided(seen(GOOD, behind=("a:1", "b:1"))).reason
    assert words == "gateway a:1 and 1 more speaks of another stage"


def test_a_share_of_nothing_needs_no_requests():
    dark = replace(PLAN, shares=(0.0, 0.5))
    assert isinstance(decided(seen(), dark), Advance)
    assert needs(evidence=seen(), plan=dark, elapsed_s=10) == ("time",)


def test_a_plan_without_shares_promotes_once_all_are_ready():
    flip = replace(PLAN, shares=())
    assert isinstance(decided(seen(), flip, elapsed_s=0, ready_s=0), Promote)
    assert needs(evidence=seen(ready=1), plan=flip, ready_s=None) == ("ready",)
    # With copies to compare it takes its time.
    watched = replace(flip, shadow=0.1)
    assert needs(evidence=seen(), plan=watched, ready_s=59.0) == ("time",)
    assert isinstance(decided(seen(), watched), Promote)


def test_the_other_channel_overrules():
    held = decided(base=Base(3, held=True))
    assert held == Abort("channel stable is held at version 3")
    assert decided(base=Base(6, held=False)) == Abort("channel stable moved on to version 6")
    # Between the two moves of a promotion its controller died.
    cut_off = decided(seen(ready=0), base=Base(CANDIDATE, held=True), ready_s=None)
    assert isinstance(cut_off, Promote)
    # It moved there, and somebody moved it back: the promotion is only to be written down.
    assert isinstance(decided(base=Base(3, held=True, promoted=True)), Promote)
    # A person began it over a hold.
    assert isinstance(decided(base=Base(6, held=True, pending=True)), Promote)


@pytest.mark.parametrize("failing", [2, 3, 10])
def test_one_that_fails_everything_is_given_up_at_once(failing):
    verdict = decided(seen(arm(failing, failing)), elapsed_s=0, ready_s=0)
    assert verdict == Abort(
        f"it failed {failing} of {failing} requests, the others 0 of 10000: more than 1 % apart"
    )


def test_it_is_given_up_though_the_others_had_no_requests_and_gateways_are_silent():
    evidence = seen(arm(5, 5), Arm(4), ready=1, silent=("a:1",))
    assert isinstance(decided(evidence, ready_s=None), Abort)


@pytest.mark.parametrize("ended", range(1, 6))
def test_one_failure_ends_nothing(ended):
    strict = replace(PLAN, max_error_difference=0.0)
    for plan in (PLAN, strict):
        assert "errors" in needs(evidence=seen(arm(ended, 1)), plan=plan)


def test_failures_that_the_others_have_too_are_no_reason():
    evidence = seen(arm(200, 40), arm(10_000, 2000))
    assert isinstance(decided(evidence), Advance)


def test_copies_that_it_failed_count_as_failures():
    evidence = seen(arm(0), shadow=Shadow(batches=5, failed=5))
    assert isinstance(decided(evidence, replace(PLAN, shares=(), shadow=0.5)), Abort)


def test_a_candidate_that_is_much_slower_is_given_up():
    slow = seen(arm(100, 0, even(50, 2.0, 0.3)), arm(900, 0, even(900, 1.0, 0.3)))
    assert decided(slow) == Abort(
        "its batches take 2.00 times as long as the others': more than 1.5"
    )
    assert isinstance(decided(slow, replace(PLAN, max_latency_ratio=0)), Advance)
    few = seen(arm(100, 0, even(10, 2.0, 0.3)), arm(900, 0, even(900, 1.0, 0.3)))
    assert needs(evidence=few) == ("latency",)


def scored(ours, others, **plan):
    evidence = seen(arm(100, accuracy=ours), arm(10_000, accuracy=others))
    return decided(evidence, replace(PLAN, metric="accuracy", min_scores=100, **plan))


def test_worse_scores_end_it_and_few_keep_it_waiting():
    good, bad, few = even(100, 0.9, 0.1), even(100, 0.7, 0.1), even(20, 0.9, 0.1)
    assert isinstance(scored(good, good), Advance)
    assert isinstance(scored(bad, good), Abort)
    assert isinstance(scored(good, bad), Advance)
    assert isinstance(scored(bad, good, max_score_drop=0.3), Advance)
    assert isinstance(scored(good, bad, lower_is_better=True), Abort)
    assert isinstance(scored(bad, good, lower_is_better=True), Advance)
    assert scored(few, good).needs == ("scores",)
    assert scored(good, few).needs == ("scores",)
    # Worse, and not surely so: neither the end nor the next stage.
    assert scored(even(100, 0.89, 0.4), even(100, 0.9, 0.4)).needs == ("quality",)


def test_numbers_that_no_float_holds_end_neither_the_rollout_nor_its_controller():
    plan = replace(PLAN, metric="accuracy", max_latency_ratio=1e200, max_score_drop=1e300)
    times = even(100, 1.0, 0.1)
    ours, others = (arm(100, 0, times, accuracy=even(100, mean)) for mean in (0.9, 0.8))
    assert isinstance(decided(seen(ours, others), plan), Advance)
    # Scores that overflowed are no scores to go on with.
    endless = arm(100, 0, times, accuracy=Sample(100, float("-inf"), float("inf")))
    assert needs(evidence=seen(endless, endless), plan=plan) == ("quality",)


def test_where_it_gets_every_request_the_others_need_no_scores():
    all_of_them = replace(PLAN, shares=(1.0,), metric="accuracy")
    evidence = seen(arm(100, accuracy=even(100, 0.9, 0.1)), Arm(4))
    assert isinstance(decided(evidence, all_of_them), Promote)


def test_other_answers_to_copied_requests_end_it():
    strict = replace(PLAN, shadow=0.5, max_changed=0.1)
    assert isinstance(decided(seen(GOOD, shadow=Shadow(50, 0, 200, 60)), strict), Abort)
    assert isinstance(decided(seen(GOOD, shadow=Shadow(50, 0, 200, 10)), strict), Advance)
    assert decided(seen(GOOD, shadow=Shadow(5, 0, 20, 3)), strict).needs == ("copies", "changes")
    # Nobody asked to judge them.
    shown = replace(PLAN, shadow=0.5)
    assert isinstance(decided(seen(GOOD, shadow=Shadow(50, 0, 200, 200)), shown), Advance)


def test_what_nothing_decides_is_given_up_with_what_was_missing():
    plan = replace(PLAN, give_up_s=300.0)
    assert needs(evidence=seen(arm(3)), plan=plan, elapsed_s=299.0) == ("requests",)
    late = decided(seen(arm(3)), plan, elapsed_s=300.0)
    assert late == Abort("not decided in 300 s: 3 of 100 requests")
    assert isinstance(decided(plan=plan, elapsed_s=900.0), Advance)


def test_figures_of_another_stage_or_candidate_are_left_out():
    fresh = View(version=5, revision=9, endpoints=2, ready_endpoints=2, candidate=arm(10, 1))
    views = {
        "a": fresh,
        "b": replace(fresh, candidate=arm(20, 2)),
        "old": replace(fresh, revision=8, candidate=arm(99, 99)),
        "other": replace(fresh, version=4, candidate=arm(99, 99)),
        "unaware": View(endpoints=2),
        "empty": View(),
        "silent": None,
    }
    evidence = evidence_of(views, version=5, revision=9)
    assert (evidence.candidate.requests, evidence.candidate.failed) == (30, 3)
    assert evidence.behind == ("old", "other")
    assert (evidence.empty, evidence.silent) == (("empty",), ("silent",))
    assert (evidence.endpoints, evidence.ready_endpoints, evidence.ready) == (10, 4, False)
    two = evidence_of({"a": fresh, "b": fresh}, version=5, revision=9)
    assert two.ready and two.endpoints == 4
    assert not evidence_of({}, version=5, revision=9).ready


def drawn(draw: random.Random, share: float, slowness: float, right: float, requests: int) -> Arm:
    """What so many requests give; a tenth as many batches, a score for every second one."""
    failed = sum(draw.random() < share for _ in range(requests))
    scores = sample([float(draw.random() < right) for _ in range(requests // 2)])
    times = [slowness * draw.lognormvariate(0, 0.5) for _ in range(requests // 10)]
    return arm(requests, failed, sample(times), accuracy=scores)


# Zero allowance, so that every judgement has its full chance of being wrong.
BARE = RolloutPlan(
    shares=(0.05,),
    max_error_difference=0.0,
    max_latency_ratio=1.0,
    metric="accuracy",
    min_requests=10**9,
)


def judged(draw, looks, ours, others) -> int | None:
    """After how many requests of the candidate it is given up, looked at after each 20; or None."""
    candidate, control = arm(), arm()
    for look in range(1, looks + 1):
        candidate += drawn(draw, *ours, 20)
        control += drawn(draw, *others, 60)
        if isinstance(decided(seen(candidate, control), BARE), Abort):
            return 20 * look
    return None


def test_equal_arms_are_seldom_given_up_however_often_they_are_looked_at():
    draw = random.Random(11)
    wrong = 0
    for share, right in ((0.02, 0.9), (0.2, 0.95)) * 25:
        wrong += judged(draw, 20, (share, 1.0, right), (share, 1.0, right)) is not None
    # Three judgements, each wrong once in a hundred at most.
    assert wrong <= 2


@pytest.mark.parametrize(
    "ours", [(0.3, 1.0, 0.9), (0.02, 2.0, 0.9), (0.02, 1.0, 0.5)], ids=["errors", "slow", "wrong"]
)
def test_a_candidate_that_is_much_worse_is_given_up(ours):
    draw = random.Random(12)
    for _ in range(5):
        needed = judged(draw, 60, ours, (0.02, 1.0, 0.9))
        assert needed is not None


finite = st.floats(0, 1e6)
samples = st.builds(Sample, st.integers(0, 10**9), finite, finite)
arms = st.integers(0, 10**9).flatmap(
    lambda ended: st.builds(arm, st.just(ended), st.integers(0, ended), samples, accuracy=samples)
)
shadows = st.integers(0, 10**9).flatmap(
    lambda rows: st.builds(
        Shadow, st.integers(0, rows), st.integers(0, rows), st.just(rows), st.integers(0, rows)
    )
)


@given(
    evidence=st.builds(seen, arms, arms, shadows, ready=st.integers(0, 2)),
    plan=st.builds(
        RolloutPlan,
        shares=st.sampled_from([(), (0.0, 1.0), (0.1,)]),
        metric=st.sampled_from(["", "accuracy"]),
        shadow=st.sampled_from([0.0, 0.5]),
        max_changed=st.sampled_from([0.1, 1.0]),
        give_up_s=st.sampled_from([0.0, 100.0]),
    ),
    elapsed_s=st.floats(0, 1e6),
)
def test_whatever_is_seen_there_is_a_verdict_in_words(evidence, plan, elapsed_s):
    ready_s = elapsed_s if evidence.ready else None
    verdict = decided(evidence, plan, elapsed_s=elapsed_s, ready_s=ready_s)
    assert verdict.reason
    if isinstance(verdict, Promote | Advance):
        assert evidence.ready
