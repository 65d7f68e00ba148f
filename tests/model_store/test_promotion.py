"""A rollout's moves, on every kind of store."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chassis.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from model_store import Store
from model_store.faults import Fault, FaultyStore
from model_store.open import open_store
from model_store.promotion import abort, advance, begin, promote
from model_store.publication import existing_channel, publish, rollback
from model_store.records import Channel
from model_store.rollout import Rollout, RolloutPlan, RolloutState
from tests.model_store.samples import MODEL, stored

PLAN = RolloutPlan(shares=(0.1, 0.5), stage_s=1.0, metric="accuracy", shadow=0.25)


@pytest.fixture
def ready(store: Store) -> Store:
    """Version 1 is stable, 2 on the canary channel."""
    publish(store, stored(store, 1))
    publish(store, stored(store, 2), channel="canary")
    return store


def stable(store: Store) -> Channel:
    return existing_channel(store, MODEL, "stable")


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises((FailedPrecondition, NotFound, InvalidArgument)) as caught:
        call()
    return caught.value.reason


def test_a_rollout_is_kept_with_its_channel_and_plan(ready: Store) -> None:
    begun = begin(ready, MODEL, plan=PLAN)
    assert begun == existing_channel(ready, MODEL, "canary")
    assert begun.rollout == Rollout(against="stable", plan=PLAN)
    assert (begun.version, begun.held) == (2, True)
    assert (begun.rollout.share, begun.rollout.shadow) == (0.1, 0.25)
    after = advance(ready, begun, reason="it does well")
    assert after.rollout is not None and after.rollout.share == 0.5
    assert [move.reason for move in after.history] == ["publish", "rollout begins", "it does well"]
    assert stable(ready).version == 1


def test_publishers_leave_a_candidate_alone_until_its_rollout_ends(ready: Store) -> None:
    begin(ready, MODEL, plan=PLAN)
    held = publish(ready, stored(ready, 3), channel="canary")
    assert (held.moved, held.channel.version) == (False, 2)
    given_up = abort(ready, MODEL, reason="worse")
    assert given_up.rollout is not None and given_up.rollout.state is RolloutState.ABORTED
    assert (given_up.rollout.share, given_up.rollout.shadow, given_up.held) == (0.0, 0.0, False)
    freed = publish(ready, stored(ready, 4), channel="canary")
    assert (freed.moved, freed.channel.rollout) == (True, None)
    assert stable(ready).version == 1


def test_a_promotion_moves_the_other_channel_and_ends_the_rollout(ready: Store) -> None:
    begin(ready, MODEL, plan=PLAN)
    moved = promote(ready, MODEL, reason="it did well")
    assert (moved.name, moved.version, moved.history[-1].reason) == ("stable", 2, "it did well")
    ended = existing_channel(ready, MODEL, "canary")
    assert ended.rollout is not None and ended.rollout.state is RolloutState.PROMOTED
    assert not ended.held
    assert refusal(lambda: promote(ready, MODEL, reason="again")) == "NO_ROLLOUT"
    # The way back is the one of every channel.
    assert rollback(ready, MODEL, reason="after all").version == 1


def test_a_promotion_that_was_cut_off_is_completed_by_repeating_it(ready: Store) -> None:
    begin(ready, MODEL, plan=PLAN)
    lost = Unavailable("STORE_UNAVAILABLE", "the connection broke")
    faulty = FaultyStore(ready, [Fault("move_channel", lost, skip=1)])
    with pytest.raises(Unavailable):
        promote(faulty, MODEL, reason="first")
    assert stable(ready).version == 2
    # The channel was there already and does not move once more.
    assert promote(ready, MODEL, reason="second").history[-1].reason == "first"
    ended = existing_channel(ready, MODEL, "canary").rollout
    assert ended is not None and ended.state is RolloutState.PROMOTED


def test_nobody_promotes_over_a_hold_but_a_person(ready: Store) -> None:
    publish(ready, stored(ready, 3))
    rollback(ready, MODEL, reason="worse")
    begin(ready, MODEL, plan=PLAN)
    assert refusal(lambda: promote(ready, MODEL, reason="auto")) == "CHANNEL_HELD"
    assert (stable(ready).version, stable(ready).held) == (1, True)
    moved = promote(ready, MODEL, despite_hold=True, reason="an operator")
    assert (moved.version, moved.held) == (2, False)


def test_who_acts_on_an_old_view_is_refused(ready: Store) -> None:
    seen = begin(ready, MODEL, plan=PLAN)
    advance(ready, seen, reason="first controller")
    with pytest.raises(Aborted):
        advance(ready, seen, reason="second controller")
    assert refusal(lambda: promote(ready, MODEL, seen=seen, reason="x")) == "ROLLOUT_MOVED"
    assert refusal(lambda: abort(ready, MODEL, seen=seen, reason="x")) == "ROLLOUT_MOVED"
    assert stable(ready).version == 1


def test_what_cannot_begin_says_why(ready: Store) -> None:
    assert refusal(lambda: begin(ready, MODEL, 1, plan=PLAN)) == "NO_CANDIDATE"
    assert refusal(lambda: begin(ready, MODEL, 9, plan=PLAN)) == "VERSION_NOT_FOUND"
    assert refusal(lambda: begin(ready, MODEL, plan=PLAN, against="live")) == "CHANNEL_NOT_FOUND"
    assert refusal(lambda: abort(ready, MODEL, reason="x")) == "NO_ROLLOUT"
    begin(ready, MODEL, plan=PLAN)
    assert refusal(lambda: begin(ready, MODEL, plan=PLAN)) == "ROLLOUT_RUNNING"


@pytest.mark.parametrize(
    "plan",
    [
        RolloutPlan(shares=(0.5, 0.1)),
        RolloutPlan(shares=(1.5,)),
        RolloutPlan(shares=tuple(at / 100 for at in range(40))),
        RolloutPlan(shadow=-0.1),
        RolloutPlan(stage_s=float("nan")),
        RolloutPlan(min_requests=-1),
        RolloutPlan(max_error_difference=2.0),
        RolloutPlan(max_score_drop=2e6),
        RolloutPlan(max_latency_ratio=1e200),
    ],
)
def test_a_plan_that_means_nothing_is_refused(plan: RolloutPlan) -> None:
    with open_store("memory://plans") as store:
        publish(store, stored(store, 1))
        publish(store, stored(store, 2), channel="canary")
        assert refusal(lambda: begin(store, MODEL, plan=plan)) == "BAD_ROLLOUT"
