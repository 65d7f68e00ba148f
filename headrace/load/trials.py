"""A capacity search with real loads: one trial after another, with time to settle between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from chassis.errors import InvalidArgument
from headrace.load.arrivals import Arrivals
from headrace.load.capacity import CapacitySearch, Objective, Trial, judged
from headrace.load.plan import LoadPlan
from headrace.load.results import LoadResult
from headrace.load.run import OnSnapshot, measure

OnTrial = Callable[[Trial, LoadResult], None]


@dataclass(frozen=True, slots=True)
class Capacity:
    """The outcome of a search, rates in requests per second."""

    objective: Objective
    search: CapacitySearch
    # The load at the highest rate that held; None where none did.
    best: LoadResult | None
    # Whether it was stopped before it was known to the precision asked for.
    complete: bool


async def find_capacity(
    plan: LoadPlan,
    search: CapacitySearch,
    objective: Objective,
    *,
    settle_s: float = 1.0,
    on_trial: OnTrial | None = None,
    on_snapshot: OnSnapshot | None = None,
    stop: asyncio.Event | None = None,
) -> Capacity:
    """Runs the plan at one rate after another, for as many seconds as its arrivals last.

    Each trial has arrivals of its own. Raises what `measure` does, and InvalidArgument (BAD_PLAN)
    on a plan that replays a trace.
    """
    arrivals = plan.arrivals
    if not isinstance(arrivals, Arrivals):
        raise InvalidArgument("BAD_PLAN", "a trace has its own rate: there is no capacity to find")
    stop = stop or asyncio.Event()
    best: LoadResult | None = None
    while (rate := search.next_rate()) is not None:
        trial_plan = replace(
            plan,
            arrivals=Arrivals.at_rate(rate, arrivals.seconds, arrivals.spacing, arrivals.burst),
            seed=plan.seed + len(search.trials),
        )
        result = await measure(trial_plan, on_snapshot=on_snapshot, stop=stop)
        if not result.complete:
            return Capacity(objective, search, best, complete=False)
        trial = judged(rate, result, objective)
        search.on_trial(trial)
        if trial.met and rate == search.capacity:
            best = result
        if on_trial is not None:
            on_trial(trial, result)
        await _settled(stop, settle_s)
    return Capacity(objective, search, best, complete=True)


async def _settled(stop: asyncio.Event, seconds: float) -> None:
    """Lets queues of the trial before run empty."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
