"""One rollout at one look: what was seen, what is decided, and the numbers behind it.

Decides how figures read in a log and in a table, where they are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.policy.evidence import Arm, Evidence
from headrace.policy.rollout import Verdict, percent
from model_store.records import Channel
from model_store.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Standing:
    """The candidate's channel, what was seen of it and decided; `errors` by gateway."""

    channel: Channel
    rollout: Rollout
    evidence: Evidence
    errors: dict[str, str]
    verdict: Verdict
    elapsed_s: float


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
