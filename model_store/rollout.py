"""A rollout: the version of one channel takes a growing share of another channel's requests.

The record lies in the channel of the candidate, so that every move of it is a compare-and-set and
any process can go on with it. What is decided from what was seen is a controller's affair
(`headrace.policy.rollout`), the order of the moves `model_store.promotion`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from chassis.errors import InvalidArgument
from chassis.names import checked_name

MAX_STAGES = 32
# Of scores and ratios: as squares and sums of many they are far from what a double holds.
MAX_BOUND = 1e6


class RolloutState(StrEnum):
    """How far a rollout is."""

    RUNNING = "running"
    # The other channel is about to move, or has moved already.
    PROMOTING = "promoting"
    PROMOTED = "promoted"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """What a rollout goes through, and what ends it.

    Shares are parts of 1. The candidate is compared with what serves beside it, over the present
    stage; see `headrace.policy.rollout` for how sure a finding has to be.
    """

    # Of the requests that name no version, ascending; a stage each. Empty: loaded everywhere, then
    # promoted, without an answer before that.
    shares: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5)
    # Seconds that a stage lasts at least.
    stage_s: float = 60.0
    # Requests that the candidate must have ended, well or badly, in a stage before the next one.
    min_requests: int = 100
    # By so much its share of failed requests may exceed the other's.
    max_error_difference: float = 0.01
    # So many times as long as the other its batches may take, to 1e6; 0: not judged.
    max_latency_ratio: float = 1.5
    # Name of the scores, made of labels that came back, by which both are judged; "" for none.
    metric: str = ""
    lower_is_better: bool = False
    # By so much its mean score may be worse, to 1e6.
    max_score_drop: float = 0.0
    # Scores that a stage needs of either.
    min_scores: int = 100
    # Of the others' requests, of which copies are computed by the candidate and compared.
    shadow: float = 0.0
    # Of the rows compared, whose largest output may be another one; 1: not judged.
    max_changed: float = 1.0
    # Seconds after which a stage that nothing decides ends the rollout; 0: never.
    give_up_s: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", tuple(float(share) for share in self.shares))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Where it stands: `stage` counts from 0 and names the share of `plan` that holds now.

    `against` is the channel whose requests it takes, and that a promotion moves.
    """

    against: str
    state: RolloutState = RolloutState.RUNNING
    stage: int = 0
    plan: RolloutPlan = field(default_factory=RolloutPlan)
    # The revision of `against` from which the promotion moves it, and from no other; 0 before one
    # began.
    base_revision: int = 0

    @property
    def running(self) -> bool:
        """Whether it takes requests: it does until it ended."""
        return self.state in (RolloutState.RUNNING, RolloutState.PROMOTING)

    @property
    def promoting(self) -> bool:
        """Whether its promotion began and is not known to have ended."""
        return self.state is RolloutState.PROMOTING

    @property
    def share(self) -> float:
        """Of the requests that name no version, 0 to 1; 0 once it ended."""
        shares = self.plan.shares
        return shares[self.stage] if self.running and self.stage < len(shares) else 0.0

    @property
    def shadow(self) -> float:
        """Of the others' requests that are copied, 0 to 1; 0 once it ended."""
        return self.plan.shadow if self.running else 0.0


def check_rollout(rollout: Rollout) -> None:
    """Refuses one that no store may hold. Raises InvalidArgument (BAD_ROLLOUT, BAD_NAME)."""
    checked_name(rollout.against, what="channel")
    plan = rollout.plan
    if len(plan.shares) > MAX_STAGES:
        raise _bad("shares", f"{len(plan.shares)} stages; {MAX_STAGES} may be")
    for share in plan.shares:
        _check_within("shares", share, 1.0)
    if any(before >= after for before, after in pairwise(plan.shares)):
        raise _bad("shares", f"{list(plan.shares)} do not ascend")
    if not 0 <= rollout.stage <= len(plan.shares):
        raise _bad("stage", f"{rollout.stage} is not one of {len(plan.shares)} stages")
    for name in ("max_error_difference", "shadow", "max_changed"):
        _check_within(name, getattr(plan, name), 1.0)
    for name in ("max_latency_ratio", "max_score_drop"):
        _check_within(name, getattr(plan, name), MAX_BOUND)
    for name in ("stage_s", "give_up_s"):
        _check_within(name, getattr(plan, name), math.inf)
    for name in ("min_requests", "min_scores"):
        if not 0 <= getattr(plan, name) < 2**63:
            raise _bad(name, f"{getattr(plan, name)} is not a number of 0 or more")
    if not int(rollout.promoting) <= rollout.base_revision < 2**63:
        raise _bad("base_revision", f"{rollout.base_revision} is no revision to promote from")
    if plan.metric:
        checked_name(plan.metric, what="metric")


def _check_within(name: str, value: float, most: float) -> None:
    if not (math.isfinite(value) and 0 <= value <= most):
        upto = "" if most == math.inf else f" to {most:g}"
        raise _bad(name, f"{value} is not a number from 0{upto}")


def _bad(field: str, message: str) -> InvalidArgument:
    return InvalidArgument("BAD_ROLLOUT", f"rollout {field}: {message}", field=field)
