"""A rollout's moves, on every kind of store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from chassis import failpoints
from chassis.errors import (
    Aborted,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from model_store import Store
from model_store.faults import Fault, FaultyStore
from model_store.open import open_store
from model_store.promotion import abort, advance, begin, promote
from model_store.publication import existing_channel, publish, rollback
from model_store.records import Channel
from model_store.rollout import Rollout, RolloutPlan, RolloutState, check_rollout
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


def state(store: Store) -> RolloutState | None:
    rollout = existing_channel(store, MODEL, "canary").rollout
    return None if rollout is None else rollout.state


def set_stable(store: Store, version: int, *, held: bool = False) -> None:
    store.move_channel(
        MODEL,
        "stable",
        version,
        expected_revision=stable(store).revision,
        held=held,
        reason="a person",
    )


@contextmanager
def acting_at(name: str, act: Callable[[], object]) -> Iterator[None]:
    """Somebody acts the first time a promotion passes that step."""
    acts = iter([act])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "model_store.promotion.failpoint",
            lambda passed: next(acts, lambda: None)() if passed == name else None,
        )
        yield


def cut_off_at(store: Store, name: str, *, despite_all: bool = False) -> None:
    """A promotion that ends there, as if it was killed."""
    failpoints.arm(f"{name}=error")
    try:
        with pytest.raises(Internal):
            promote(
                store,
                MODEL,
                despite_hold=despite_all,
                despite_newer=despite_all,
                reason="cut off",
            )
    finally:
        failpoints.arm("")


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
    faulty = FaultyStore(ready, [Fault("move_channel", lost, skip=2)])
    with pytest.raises(Unavailable):
        promote(faulty, MODEL, reason="first")
    assert (stable(ready).version, state(ready)) == (2, RolloutState.PROMOTING)
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


def test_nobody_promotes_backwards_but_a_person(ready: Store) -> None:
    begin(ready, MODEL, plan=PLAN)
    publish(ready, stored(ready, 3))
    assert refusal(lambda: promote(ready, MODEL, reason="auto")) == "NOT_NEWER"
    assert (stable(ready).version, state(ready)) == (3, RolloutState.RUNNING)
    assert promote(ready, MODEL, despite_newer=True, reason="an operator").version == 2


@pytest.mark.parametrize(
    ("act", "why", "stands_at"),
    [
        (lambda store: publish(store, stored(store, 3)), "NOT_NEWER", 3),
        (lambda store: set_stable(store, 1, held=True), "CHANNEL_HELD", 1),
    ],
)
def test_who_moves_the_other_channel_in_the_midst_of_a_promotion_wins(
    ready: Store, act: Callable[[Store], object], why: str, stands_at: int
) -> None:
    begin(ready, MODEL, plan=PLAN)
    with acting_at("promote.begun", lambda: act(ready)):
        assert refusal(lambda: promote(ready, MODEL, reason="x")) == why
    assert (stable(ready).version, state(ready)) == (stands_at, RolloutState.PROMOTING)
    # That promotion can move nothing any more, so it can be given up.
    abort(ready, MODEL, reason="overtaken")
    assert (stable(ready).version, state(ready)) == (stands_at, RolloutState.ABORTED)


def test_a_promotion_begins_anew_from_an_older_version_that_came_between(ready: Store) -> None:
    publish(ready, stored(ready, 3), channel="canary")
    begin(ready, MODEL, plan=PLAN)
    with acting_at("promote.begun", lambda: set_stable(ready, 2)):
        assert promote(ready, MODEL, reason="x").version == 3
    assert [move.version for move in stable(ready).history] == [1, 2, 3]
    assert state(ready) is RolloutState.PROMOTED


@pytest.mark.parametrize(
    ("step", "why"),
    [("promote.begun", "PROMOTION_BEGUN"), ("promote.between_channels", "ALREADY_PROMOTED")],
)
def test_what_may_serve_already_is_not_given_up(ready: Store, step: str, why: str) -> None:
    begin(ready, MODEL, plan=PLAN)
    given_up: list[str] = []
    with acting_at(
        step, lambda: given_up.append(refusal(lambda: abort(ready, MODEL, reason="no")))
    ):
        promote(ready, MODEL, reason="x")
    assert given_up == [why]
    assert (stable(ready).version, state(ready)) == (2, RolloutState.PROMOTED)


@pytest.mark.parametrize("step", ["promote.begun", "promote.between_channels"])
def test_a_promotion_that_was_killed_keeps_its_share_and_is_completed(
    ready: Store, step: str
) -> None:
    begin(ready, MODEL, plan=PLAN)
    publish(ready, stored(ready, 3))
    set_stable(ready, 3, held=True)
    cut_off_at(ready, step, despite_all=True)
    left = existing_channel(ready, MODEL, "canary")
    assert left.rollout is not None and left.held
    assert (left.rollout.state, left.rollout.share) == (RolloutState.PROMOTING, 0.1)
    assert refusal(lambda: begin(ready, MODEL, plan=PLAN)) == "ROLLOUT_RUNNING"
    assert refusal(lambda: advance(ready, left, reason="x")) == "PROMOTION_BEGUN"
    # Whoever began it was allowed to.
    assert promote(ready, MODEL, reason="the next one").version == 2
    assert (stable(ready).version, state(ready)) == (2, RolloutState.PROMOTED)


def test_a_promotion_that_was_killed_is_not_made_twice(ready: Store) -> None:
    begin(ready, MODEL, plan=PLAN)
    cut_off_at(ready, "promote.between_channels")
    set_stable(ready, 1)
    promote(ready, MODEL, reason="the next one")
    assert (stable(ready).version, state(ready)) == (1, RolloutState.PROMOTED)


def test_a_rollback_in_the_midst_of_a_promotion_lets_it_be_given_up(ready: Store) -> None:
    begin(ready, MODEL, plan=PLAN)
    cut_off_at(ready, "promote.between_channels")
    rollback(ready, MODEL, reason="worse")
    given_up = abort(ready, MODEL, reason="rolled back")
    assert given_up.rollout is not None and given_up.rollout.share == 0.0
    assert (stable(ready).version, state(ready)) == (1, RolloutState.ABORTED)


def test_what_a_person_moved_to_by_hand_is_not_given_up(ready: Store) -> None:
    begin(ready, MODEL, plan=PLAN)
    set_stable(ready, 2)
    assert refusal(lambda: abort(ready, MODEL, reason="x")) == "ALREADY_PROMOTED"
    promote(ready, MODEL, reason="so be it")
    assert state(ready) is RolloutState.PROMOTED


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


def test_a_promotion_from_nowhere_is_refused() -> None:
    nowhere = Rollout(against="stable", state=RolloutState.PROMOTING, plan=PLAN)
    assert refusal(lambda: check_rollout(nowhere)) == "BAD_ROLLOUT"
    check_rollout(replace(nowhere, base_revision=1))
