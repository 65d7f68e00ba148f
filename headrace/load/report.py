"""A result as a record: the JSON of `headrace load`, and what has to be said beside the figures.

Times are milliseconds, rates are per second of counted time, shares are parts of 1.
"""

from __future__ import annotations

from typing import Any

from headrace.load.arrivals import Arrivals
from headrace.load.latencies import PERCENTILES, Latencies
from headrace.load.plan import LoadPlan
from headrace.load.results import LoadResult
from headrace.load.tally import Tally
from headrace.load.trials import Capacity

Record = dict[str, Any]


def result_record(result: LoadResult) -> Record:
    """Everything that a load measured, without the time series."""
    return {
        "plan": plan_record(result.plan),
        "start_time_ms": result.start_time_ms,
        "seconds": round(result.seconds, 3),
        "complete": result.complete,
        "total": tally_record(result.total, result.seconds),
        "classes": {name: tally_record(tally, result.seconds) for name, tally in result.by_class()},
        "tenants": {
            name: tally_record(tally, result.seconds) for name, tally in result.by_tenant() if name
        },
        "generator": {
            "kept_up": result.kept_up,
            "lag_ms": _lag_record(result.lag),
            "cpu_us_per_request": round(result.cpu_us_per_request, 1),
        },
        "warnings": warnings(result),
    }


def capacity_record(capacity: Capacity) -> Record:
    """A search: what it found, its trials, and the load at the rate that it found."""
    search = capacity.search
    return {
        "objective": str(capacity.objective),
        "failed_share": capacity.objective.failed_share,
        "complete": capacity.complete,
        "capacity_per_s": round(search.capacity, 3),
        "lowest_miss_per_s": None if search.lowest_miss is None else round(search.lowest_miss, 3),
        "limited_by_generator": search.limited_by_generator,
        "trials": [
            {
                "rate_per_s": round(trial.rate, 3),
                "met": trial.met,
                "cause": trial.cause,
                "inconclusive": trial.inconclusive,
            }
            for trial in search.trials
        ],
        "best": None if capacity.best is None else result_record(capacity.best),
    }


def plan_record(plan: LoadPlan) -> Record:
    """What was asked for, without credentials and contents."""
    return {
        "address": plan.address,
        "model": plan.model,
        "version": plan.version,
        "arrivals": _arrivals_record(plan),
        "classes": [
            {
                "name": item.name,
                "priority": item.priority,
                "share": item.share,
                "deadline_ms": _ms(item.deadline_s),
                "objective_ms": _ms(item.objective_s),
            }
            for item in plan.mix.classes
        ],
        "tenants": [
            {"name": item.name, "share": item.share, "token": bool(item.token)}
            for item in plan.mix.tenants
            if item.name
        ],
        "rows": list(plan.rows),
        "warmup_s": plan.warmup_s,
        "timeout_s": plan.timeout_s,
        "connections": plan.connections,
        "streams": plan.streams,
        "processes": plan.processes,
        "retries": plan.retries,
        "max_outstanding": plan.max_outstanding,
        "seed": plan.seed,
    }


def tally_record(tally: Tally, seconds: float) -> Record:
    """Counts, rates and latencies of one class, tenant or of all."""
    return {
        "offered": tally.offered,
        "sent": tally.sent,
        "answered": tally.answered,
        "good": tally.good,
        "failed": tally.failures,
        "shed": tally.shed,
        "deadline_exceeded": tally.deadline_exceeded,
        "not_sent": tally.not_sent,
        "unfinished": tally.unfinished,
        "tries": tally.tries,
        "retries": tally.retries,
        "offered_per_s": _rate(tally.offered, seconds),
        "answered_per_s": _rate(tally.answered, seconds),
        "good_per_s": _rate(tally.good, seconds),
        "good_share": round(tally.good / tally.offered, 6) if tally.offered else None,
        "latency_ms": latency_record(tally.latencies),
        "failed_by_code": dict(tally.failed),
        "failed_by_reason": dict(tally.reasons),
        "retried_by_code": dict(tally.retried),
        "versions": dict(sorted(tally.versions.items())),
    }


def latency_record(latencies: Latencies) -> Record:
    """Percentiles, None where nothing was answered."""
    if not len(latencies):
        return {**{f"p{percentile:g}": None for percentile in PERCENTILES}, "max": None}
    found = {
        f"p{percentile:g}": round(latencies.percentile_s(percentile) * 1e3, 3)
        for percentile in PERCENTILES
    }
    return {**found, "max": round(latencies.max_s * 1e3, 3)}


def warnings(result: LoadResult) -> list[str]:
    """What a reader has to know before believing the figures."""
    found = []
    if not result.kept_up:
        lag_ms = result.lag.percentile_s(99) * 1e3
        found.append(
            f"the generator could not keep up: 1 % of the requests were sent more than "
            f"{lag_ms:.1f} ms late, and latencies include it; lower the rate, give it more "
            "processes or a machine of its own"
        )
    total = result.total
    if total.not_sent:
        found.append(
            f"{total.not_sent} requests were not sent: {result.plan.max_outstanding} were under "
            "way already (--max-outstanding), or their deadline had passed before their turn"
        )
    if total.unfinished:
        found.append(f"{total.unfinished} requests were given up when the load was stopped early")
    if not result.complete:
        found.append(f"stopped early, after {result.seconds:.1f} s")
    return found


def _arrivals_record(plan: LoadPlan) -> Record:
    arrivals = plan.arrivals
    if not isinstance(arrivals, Arrivals):
        return {"trace": str(arrivals.file)}
    return {
        "spacing": arrivals.spacing.value,
        "burst": arrivals.burst,
        "steps": [{"rate_per_s": step.rate, "seconds": step.seconds} for step in arrivals.steps],
    }


def _lag_record(lag: Latencies) -> Record:
    return {
        "p50": round(lag.percentile_s(50) * 1e3, 3),
        "p99": round(lag.percentile_s(99) * 1e3, 3),
        "max": round(lag.max_s * 1e3, 3),
    }


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 3) if seconds else 0.0


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
