"""What comes next of a rollout: wait, the next stage, promotion, or its end.

Decides from a stage's figures; how they were gathered and how channels move is left to others. What
ends a rollout has to be sure (99 of 100, shared over the looks at a growing sample, for each of
the four judgements in a stage); what lets it go on has to be complete. An operator's move of the
other channel wins over everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.policy.confidence import (
    exceeds,
    least_difference,
    least_share,
    spent,
)
from headrace.policy.evidence import Arm, Evidence

if TYPE_CHECKING:
    from model_store.rollout import Rollout, RolloutPlan

# The chance of ending a rollout in a stage, by one judgement, though both arms are alike.
ALPHA = 0.01
# One failure is an accident, whatever the sample's size says.
MIN_FAILURES = 2
# Means of fewer numbers are not compared.
MIN_SAMPLE = 30


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do; `needs` are one word each for what is missing, `reason` the words."""

    reason: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Advance:
    """On to the next stage."""

    reason: str


@dataclass(frozen=True, slots=True)
class Promote:
    """The other channel moves to the candidate."""

    reason: str


@dataclass(frozen=True, slots=True)
class Abort:
    """The candidate is given up."""

    reason: str


Verdict = Wait | Advance | Promote | Abort


@dataclass(frozen=True, slots=True)
class Base:
    """The channel that the rollout is against, as it stands."""

    version: int
    held: bool
    # Whether it moved to the candidate at some time.
    promoted: bool = False
    # Whether it stands where a promotion that began will move it.
    pending: bool = False


def decide(
    rollout: Rollout, evidence: Evidence, base: Base, *, elapsed_s: float, ready_s: float | None
) -> Verdict:
    """What comes next of a running rollout.

    `elapsed_s` seconds ago its stage began, `ready_s` seconds ago every endpoint was first seen
    with the candidate ready; None where some still lack it.
    """
    overruled = _overruled(rollout, evidence.candidate.version, base)
    if overruled is not None:
        return overruled
    plan = rollout.plan
    for harm in _harms(plan, evidence):
        return Abort(harm)
    lasted_s = None if ready_s is None else elapsed_s if rollout.stage else min(elapsed_s, ready_s)
    missing = list(_missing(rollout, evidence, lasted_s))
    if missing:
        needs, words = zip(*missing, strict=True)
        reason = "; ".join(words)
        if plan.give_up_s and elapsed_s >= plan.give_up_s:
            return Abort(f"not decided in {plan.give_up_s:g} s: {reason}")
        return Wait(reason, needs)
    passed = _passed(rollout, evidence)
    if rollout.stage + 1 < len(plan.shares):
        return Advance(f"{passed}; on to {percent(plan.shares[rollout.stage + 1])}")
    return Promote(passed)


def percent(share: float) -> str:
    """ "2.5 %"."""
    return f"{share * 100:.3g} %"


def stage_words(rollout: Rollout) -> str:
    """ "stage 2 of 4 (5 %)"."""
    count = len(rollout.plan.shares)
    if not count:
        return "without a share"
    return f"stage {rollout.stage + 1} of {count} ({percent(rollout.plan.shares[rollout.stage])})"


def _overruled(rollout: Rollout, version: int, base: Base) -> Verdict | None:
    """What the other channel says by itself."""
    if base.version == version or base.promoted:
        # A promotion that was cut off after it moved that channel, or somebody's own move.
        return Promote(f"channel {rollout.against} moved to version {version} already")
    if base.pending:
        # Whoever began it was allowed to, over a hold too.
        return Promote(f"the promotion to version {version} began")
    if base.held:
        return Abort(f"channel {rollout.against} is held at version {base.version}")
    if base.version > version:
        return Abort(f"channel {rollout.against} moved on to version {base.version}")
    if rollout.promoting:
        return Promote(f"channel {rollout.against} moved to version {base.version} meanwhile")
    return None


def _harms(plan: RolloutPlan, evidence: Evidence) -> Iterator[str]:
    """What the candidate does worse, for sure, than it may."""
    for harm in (
        _failing(plan, evidence),
        _slow(plan, evidence),
        _wrong(plan, evidence),
        _changed(plan, evidence),
    ):
        if harm:
            yield harm


def _failing(plan: RolloutPlan, evidence: Evidence) -> str:
    failed, ended = _failures(evidence)
    control = evidence.control
    allowed = plan.max_error_difference
    if failed < MIN_FAILURES or failed / ended - control.failed_share <= allowed:
        return ""
    least = least_difference(failed, ended, control.failed, control.requests, spent(ALPHA, ended))
    if least <= allowed:
        return ""
    return (
        f"it failed {failed} of {ended} requests, the others {_failed_words(control)}: more than "
        f"{percent(allowed)} apart"
    )


def _slow(plan: RolloutPlan, evidence: Evidence) -> str:
    ours, others = evidence.candidate.slowness, evidence.control.slowness
    most = plan.max_latency_ratio
    if not most or min(ours.count, others.count) < MIN_SAMPLE:
        return ""
    if not exceeds(ours, others, spent(ALPHA, ours.count), factor=most):
        return ""
    return f"{_times_words(evidence)}: more than {most:g}"


def _wrong(plan: RolloutPlan, evidence: Evidence) -> str:
    if not plan.metric:
        return ""
    ours = evidence.candidate.score(plan.metric)
    others = evidence.control.score(plan.metric)
    if min(ours.count, others.count) < MIN_SAMPLE:
        return ""
    higher, lower = (ours, others) if plan.lower_is_better else (others, ours)
    if not exceeds(higher, lower, spent(ALPHA, ours.count), margin=plan.max_score_drop):
        return ""
    return (
        f"its {plan.metric} is {ours.mean:.4g}, the others' {others.mean:.4g}: worse by more than "
        f"{plan.max_score_drop:g}"
    )


def _changed(plan: RolloutPlan, evidence: Evidence) -> str:
    shadow = evidence.shadow
    if plan.max_changed >= 1 or shadow.changed_share <= plan.max_changed:
        return ""
    alpha = spent(ALPHA, shadow.rows)
    if least_share(shadow.changed_rows, shadow.rows, alpha) <= plan.max_changed:
        return ""
    return (
        f"it answers {shadow.changed_rows} of {shadow.rows} copied rows otherwise: more than "
        f"{percent(plan.max_changed)}"
    )


def _missing(
    rollout: Rollout, evidence: Evidence, lasted_s: float | None
) -> Iterator[tuple[str, str]]:
    """What keeps the stage from ending well: a word, and words."""
    plan = rollout.plan
    yield from _unready(evidence)
    watched = bool(plan.shares) or rollout.shadow > 0
    if watched and (lasted_s is None or lasted_s < plan.stage_s):
        yield "time", f"{lasted_s or 0:.0f} of {plan.stage_s:g} s"
    candidate, control, shadow = evidence.candidate, evidence.control, evidence.shadow
    if rollout.share and candidate.requests < plan.min_requests:
        yield "requests", f"{candidate.requests} of {plan.min_requests} requests"
    failed, ended = _failures(evidence)
    if ended and failed / ended - control.failed_share > plan.max_error_difference:
        yield "errors", f"it failed {failed} of {ended}, the others {_failed_words(control)}"
    if plan.max_latency_ratio and _times(evidence) > plan.max_latency_ratio:
        yield "latency", _times_words(evidence)
    if plan.metric and rollout.share:
        yield from _unscored(rollout, evidence)
    if rollout.shadow and plan.max_changed < 1:
        if shadow.rows < plan.min_requests:
            yield "copies", f"{shadow.rows} of {plan.min_requests} copied rows"
        if shadow.changed_share > plan.max_changed:
            yield "changes", f"{shadow.changed_rows} of {shadow.rows} copied rows differ"


def _unready(evidence: Evidence) -> Iterator[tuple[str, str]]:
    if not evidence.gateways:
        yield "gateways", "no gateway is known"
    for need, names, words in (
        ("gateways", evidence.silent, "does not answer"),
        ("endpoints", evidence.empty, "has no endpoint for the model"),
        ("stage", evidence.behind, "speaks of another stage"),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield need, f"gateway {names[0]}{more} {words}"
    heard = not evidence.silent and not evidence.empty and not evidence.behind
    if heard and evidence.ready_endpoints < evidence.endpoints:
        yield "ready", f"ready on {evidence.ready_endpoints} of {evidence.endpoints} endpoints"


def _unscored(rollout: Rollout, evidence: Evidence) -> Iterator[tuple[str, str]]:
    plan = rollout.plan
    ours = evidence.candidate.score(plan.metric)
    others = evidence.control.score(plan.metric)
    for whose, sample in (("its", ours), ("the others'", others)):
        # Where the candidate gets every request there are no others' scores to wait for.
        needed = plan.min_scores if sample is ours or rollout.share < 1 else 0
        if sample.count < needed:
            yield "scores", f"{sample.count} of {plan.min_scores} of {whose} {plan.metric} scores"
    worse = ours.mean - others.mean if plan.lower_is_better else others.mean - ours.mean
    # Equal means of different counts differ in their last bits.
    rounding = 1e-12 * (abs(ours.mean) + abs(others.mean))
    # Not a number is not good enough.
    if ours.count and others.count and not worse <= plan.max_score_drop + rounding:
        yield "quality", f"its {plan.metric} is {ours.mean:.4g}, the others' {others.mean:.4g}"


def _failures(evidence: Evidence) -> tuple[int, int]:
    """Failed and all that the candidate was asked: copies that fail are no better than requests."""
    candidate, shadow = evidence.candidate, evidence.shadow
    failed = candidate.failed + shadow.failed
    return failed, max(failed, candidate.requests + shadow.batches)


def _times(evidence: Evidence) -> float:
    """Candidate's over control's slowness; 0 where either is unknown."""
    ours, others = evidence.candidate.slowness.mean, evidence.control.slowness.mean
    return ours / others if others else 0.0


def _times_words(evidence: Evidence) -> str:
    return f"its batches take {_times(evidence):.2f} times as long as the others'"


def _failed_words(arm: Arm) -> str:
    return f"{arm.failed} of {arm.requests}"


def _passed(rollout: Rollout, evidence: Evidence) -> str:
    """Why it may go on."""
    plan, shadow = rollout.plan, evidence.shadow
    words = [f"ready on {evidence.ready_endpoints} endpoints"]
    if plan.shares:
        failed, ended = _failures(evidence)
        words = [f"{stage_words(rollout)}: {failed} of {ended} failed"]
        words.append(f"others {_failed_words(evidence.control)}")
    if _times(evidence):
        words.append(f"batches x{_times(evidence):.2f}")
    if plan.metric:
        ours, others = (arm.score(plan.metric) for arm in (evidence.candidate, evidence.control))
        words.append(f"{plan.metric} {ours.mean:.4g}, others {others.mean:.4g}")
    if shadow.rows:
        words.append(f"{shadow.changed_rows} of {shadow.rows} copied rows differ")
    return ", ".join(words)
