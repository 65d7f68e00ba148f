"""The options that say what a rollout goes through; shares are written in percent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from model_store.rollout import RolloutPlan

SharesOption = Annotated[
    str,
    typer.Option(
        help="Percent of the requests, a stage each: 1,5,25,50; none: loaded everywhere, then "
        "promoted at once."
    ),
]
StageOption = Annotated[
    float, typer.Option("--stage-s", help="Seconds that a stage lasts at least.")
]
RequestsOption = Annotated[
    int, typer.Option("--min-requests", help="Requests of the candidate that a stage needs.")
]
ErrorsOption = Annotated[
    str,
    typer.Option(
        "--max-error-difference", help="Percent by which it may fail more often than the others."
    ),
]
LatencyOption = Annotated[
    float,
    typer.Option(
        "--max-latency-ratio", help="Times the others' that its batches may take; 0: not judged."
    ),
]
MetricOption = Annotated[
    str, typer.Option("--metric", help="Judge by this metric of the scores that clients report.")
]
LowerOption = Annotated[
    bool, typer.Option("--lower-is-better", help="Of that metric less is better.")
]
DropOption = Annotated[
    float, typer.Option("--max-score-drop", help="By so much its mean score may be worse.")
]
ScoresOption = Annotated[
    int, typer.Option("--min-scores", help="Scores that a stage needs of either.")
]
ShadowOption = Annotated[
    str, typer.Option("--shadow", help="Percent of the others' requests that it gets copies of.")
]
ChangedOption = Annotated[
    str,
    typer.Option(
        "--max-changed", help="Percent of the copied rows it may decide otherwise; 100: any."
    ),
]
GiveUpOption = Annotated[
    float, typer.Option("--give-up-s", help="Seconds of an undecided stage; 0: no end.")
]


def parsed_plan(
    *,
    shares: str,
    stage_s: float,
    min_requests: int,
    max_error_difference: str,
    max_latency_ratio: float,
    metric: str,
    lower_is_better: bool,
    max_score_drop: float,
    min_scores: int,
    shadow: str,
    max_changed: str,
    give_up_s: float,
) -> RolloutPlan:
    """The plan that the options mean. Raises InvalidArgument (BAD_PERCENT, BAD_ROLLOUT)."""
    from model_store.rollout import Rollout, RolloutPlan, check_rollout

    plan = RolloutPlan(
        shares=parsed_shares(shares),
        stage_s=stage_s,
        min_requests=min_requests,
        max_error_difference=parsed_percent(max_error_difference, "--max-error-difference"),
        max_latency_ratio=max_latency_ratio,
        metric=metric,
        lower_is_better=lower_is_better,
        max_score_drop=max_score_drop,
        min_scores=min_scores,
        shadow=parsed_percent(shadow, "--shadow"),
        max_changed=parsed_percent(max_changed, "--max-changed"),
        give_up_s=give_up_s,
    )
    # Told before anything is asked of a store.
    check_rollout(Rollout(against="stable", plan=plan))
    return plan


def parsed_shares(text: str) -> tuple[float, ...]:
    """Such as "1,5,25,50" or "none". Raises InvalidArgument (BAD_PERCENT)."""
    if text.strip() in ("", "none"):
        return ()
    return tuple(parsed_percent(part, "--shares") for part in text.split(","))


def parsed_percent(text: str, option: str) -> float:
    """Such as "2.5" or "2.5%", as a part of 1. Raises InvalidArgument (BAD_PERCENT)."""
    from chassis.errors import InvalidArgument

    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise InvalidArgument(
            "BAD_PERCENT", f"{option}: {text.strip()[:40]!r} is not a percentage from 0 to 100"
        )
    return value / 100
