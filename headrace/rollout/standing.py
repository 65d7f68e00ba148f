"""One rollout at one look: what was seen, what is decided, and the numbers behind it.

Decides how figures read in a log and in a table, where they are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from chassis.clock import wall_time_ms
from headrace.policy.evidence import Arm, Evidence, evidence_of
from headrace.policy.rollout import Base, Verdict, decide, percent
from headrace.rollout.gateways import Answer, views_of
from model_store.promotion import promotion_pending, was_promoted
from model_store.publication import existing_channel
from model_store.records import Channel
from model_store.rollout import Rollout
from model_store.store import Store

# Seconds for which every endpoint is ready, from the evidence and the seconds of the stage.
ReadyFor = Callable[[Evidence, float], float | None]


class Asked(Protocol):
    """Who knows what gateways see; `headrace.rollout.gateways.Gateways` is one."""

    def rollout(self, model: str) -> dict[str, Answer]:
        """What each gateway sees of the model's rollout, by its name."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The candidate's channel, what was seen of it and decided; `errors` by gateway."""

    channel: Channel
    # The channel it is against.
    base: Channel
    rollout: Rollout
    evidence: Evidence
    errors: dict[str, str]
    verdict: Verdict
    elapsed_s: float


def since_begun(evidence: Evidence, elapsed_s: float) -> float | None:
    """For one look alone: as if what is ready now was so when the stage began."""
    return elapsed_s if evidence.ready else None


def look_at(
    store: Store,
    gateways: Asked,
    seen: Channel,
    rollout: Rollout,
    *,
    ready_for: ReadyFor = since_begun,
    wall_ms: Callable[[], int] = wall_time_ms,
) -> Standing:
    """Where `rollout`, which runs in `seen`, stands; moves nothing.

    Raises NotFound (CHANNEL_NOT_FOUND), and what the store raises.
    """
    base = existing_channel(store, seen.model, rollout.against)
    answers = gateways.rollout(seen.model)
    evidence = evidence_of(views_of(answers), version=seen.version, revision=seen.revision)
    elapsed_s = max(0.0, (wall_ms() - seen.history[-1].move_time_ms) / 1000)
    verdict = decide(
        rollout,
        evidence,
        _base(seen, rollout, base),
        elapsed_s=elapsed_s,
        ready_s=ready_for(evidence, elapsed_s),
    )
    errors = {name: answer.error for name, answer in answers.items() if answer.error}
    return Standing(seen, base, rollout, evidence, errors, verdict, elapsed_s)


def _base(seen: Channel, rollout: Rollout, base: Channel) -> Base:
    return Base(
        base.version,
        base.held,
        promoted=was_promoted(seen.version, rollout, base),
        pending=promotion_pending(rollout, base),
    )


def figures_of(standing: Standing) -> dict[str, object]:
    """The numbers behind a verdict, flat, for a log or a table."""
    evidence, metric = standing.evidence, standing.rollout.plan.metric
    shadow = evidence.shadow
    copied = {
        "copies": shadow.batches,
        "failed_copies": shadow.failed,
        "copied_rows": shadow.rows,
        "changed_rows": shadow.changed_rows,
        "mean_difference": shadow.difference.mean,
        "max_difference": shadow.max_difference,
    }
    return {
        "share": percent(standing.rollout.share),
        "stage_s": round(standing.elapsed_s, 1),
        "ready": f"{evidence.ready_endpoints}/{evidence.endpoints}",
        "candidate": arm_of(evidence.candidate, metric),
        "control": arm_of(evidence.control, metric),
        **({"shadow": copied} if standing.rollout.shadow else {}),
    }


def arm_of(arm: Arm, metric: str) -> dict[str, object]:
    """One arm's numbers; the metric's where there is one."""
    score = arm.score(metric)
    scored = {"scores": score.count, metric: round(score.mean, 6)} if metric else {}
    return {
        "version": arm.version,
        "requests": arm.requests,
        "failed": arm.failed,
        "slowness": round(arm.slowness.mean, 3),
        "latency_ms": round(arm.latency_ms.mean, 3),
        **scored,
    }
