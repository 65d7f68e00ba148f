"""The options that say what a rollout goes through; shares are written in percent.

They stand here once, for every command that takes a plan; their defaults are the plan's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, cast, get_type_hints

import typer

if TYPE_CHECKING:
    from model_store.rollout import RolloutPlan


class _PlansOwn:
    """A default of the plan, read where it is used or shown: all help would import numpy else."""

    def __init__(self, field: str, shown: Callable[[Any], Any] = lambda value: value) -> None:
        self._field = field
        self._shown = shown

    def __call__(self) -> Any:
        from model_store.rollout import RolloutPlan

        return self._shown(getattr(RolloutPlan(), self._field))

    def __str__(self) -> str:
        return str(self())


def _in_percent(share: float) -> str:
    return f"{share * 100:g}"


def _all_in_percent(shares: Sequence[float]) -> str:
    return ",".join(map(_in_percent, shares)) or "none"


class PlanOptions(TypedDict):
    """A plan as it is typed: its fields, shares in percent."""

    shares: Annotated[
        str,
        typer.Option(
            "--shares",
            default_factory=_PlansOwn("shares", _all_in_percent),
            help="Percent of the requests, a stage each: 1,5,25,50; none: loaded everywhere, then "
            "promoted at once.",
        ),
    ]
    stage_s: Annotated[
        float,
        typer.Option(
            "--stage-s",
            default_factory=_PlansOwn("stage_s"),
            help="Seconds that a stage lasts at least.",
        ),
    ]
    min_requests: Annotated[
        int,
        typer.Option(
            "--min-requests",
            default_factory=_PlansOwn("min_requests"),
            help="Requests of the candidate that a stage needs.",
        ),
    ]
    max_error_difference: Annotated[
        str,
        typer.Option(
            "--max-error-difference",
            default_factory=_PlansOwn("max_error_difference", _in_percent),
            help="Percent by which it may fail more often than the others.",
        ),
    ]
    max_latency_ratio: Annotated[
        float,
        typer.Option(
            "--max-latency-ratio",
            default_factory=_PlansOwn("max_latency_ratio"),
            help="Times the others' that its batches may take; 0: not judged.",
        ),
    ]
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            default_factory=_PlansOwn("metric"),
            help="Judge by this metric of the scores that clients report.",
        ),
    ]
    lower_is_better: Annotated[
        bool,
        typer.Option(
            "--lower-is-better",
            default_factory=_PlansOwn("lower_is_better"),
            show_default=False,
            help="Of that metric less is better.",
        ),
    ]
    max_score_drop: Annotated[
        float,
        typer.Option(
            "--max-score-drop",
            default_factory=_PlansOwn("max_score_drop"),
            help="By so much its mean score may be worse.",
        ),
    ]
    min_scores: Annotated[
        int,
        typer.Option(
            "--min-scores",
            default_factory=_PlansOwn("min_scores"),
            help="Scores that a stage needs of either.",
        ),
    ]
    shadow: Annotated[
        str,
        typer.Option(
            "--shadow",
            default_factory=_PlansOwn("shadow", _in_percent),
            help="Percent of the others' requests that it gets copies of.",
        ),
    ]
    max_changed: Annotated[
        str,
        typer.Option(
            "--max-changed",
            default_factory=_PlansOwn("max_changed", _in_percent),
            help="Percent of the copied rows it may decide otherwise; 100: any.",
        ),
    ]
    give_up_s: Annotated[
        float,
        typer.Option(
            "--give-up-s",
            default_factory=_PlansOwn("give_up_s"),
            help="Seconds of an undecided stage; 0: no end.",
        ),
    ]


def takes_plan(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options above in place of its parameter `plan`."""
    options = get_type_hints(PlanOptions, include_extras=True)

    @wraps(command)
    def with_options(**given: Any) -> None:
        typed = {name: given.pop(name) for name in options}
        command(plan=parsed_plan(cast("PlanOptions", typed)), **given)

    # Typer reads a signature whose names mean something at run time; the plan's type does not.
    own = signature(command, eval_str=True, locals={"RolloutPlan": object})
    parameters = [
        taken.replace(kind=Parameter.KEYWORD_ONLY)
        for parameter in own.parameters.values()
        for taken in (_parameters(options) if parameter.name == "plan" else [parameter])
    ]
    with_options.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options


def _parameters(options: dict[str, Any]) -> list[Parameter]:
    return [
        Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation)
        for name, annotation in options.items()
    ]


def parsed_plan(typed: PlanOptions) -> RolloutPlan:
    """The plan that the options mean. Raises InvalidArgument (BAD_PERCENT, BAD_ROLLOUT)."""
    from model_store.rollout import Rollout, RolloutPlan, check_rollout

    fields: dict[str, Any] = dict(typed)
    fields["shares"] = parsed_shares(typed["shares"])
    for name in ("max_error_difference", "shadow", "max_changed"):
        fields[name] = parsed_percent(fields[name], f"--{name.replace('_', '-')}")
    plan = RolloutPlan(**fields)
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
