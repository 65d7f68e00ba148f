"""Other models and replicas than the reference: constants, rows of a request, several models."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from benchmarks.simulate.arrivals import Kind, few_or_many_rows, some_rows
from benchmarks.simulate.policies import OURS
from benchmarks.simulate.replica import Speed
from benchmarks.simulate.scenario import (
    PERCENT,
    USUAL,
    Case,
    Column,
    Found,
    Scenario,
    Verdict,
    at_least,
)
from benchmarks.simulate.scenarios.steady import REFERENCE, run_steady
from benchmarks.simulate.world import Plant

RIVALS = ("timer 5 ms", "while busy, window drop", "deferred", OURS)
LEAST_GOODPUT = 0.97
ROWS_COLUMN = Column("batch_rows", "rows a batch")
PLANTS = {
    # A batch of 64 takes 1 ms and the way 0.5 ms, there and back: two batches in flight pay.
    "short batches, 1 ms of way": Plant(
        speed=Speed(0.0005, 0.0000078), slo_s=0.02, way_s=0.0005, max_inflight=2
    ),
    "rows dominate": Plant(speed=Speed(0.001, 0.001), slo_s=0.1, max_rows=32),
    "batches dominate": Plant(speed=Speed(0.02, 0.00005), slo_s=0.1),
    "one replica": replace(REFERENCE, replicas=1),
    "sixteen replicas": replace(REFERENCE, replicas=16),
    "tight: SLO 2 l(1)": replace(REFERENCE, slo_s=0.0105),
    "loose: SLO 1 s": replace(REFERENCE, slo_s=1.0),
}
# The fast plant has a capacity of 250,000 rows a second.
CONSTANT_LOADS = (0.05, 0.5, 0.95, 2.0)


def _named(what: str, policy: str, load: float) -> str:
    return f"{what}: {policy} at {load:g}x"


def _judge_constants(found: Found) -> list[Verdict]:
    return [
        at_least(
            f"goodput, {_named(what, OURS, 2.0)}, %",
            found.estimate(_named(what, OURS, 2.0), "goodput"),
            LEAST_GOODPUT,
            PERCENT,
        )
        for what in PLANTS
    ]


constants = Scenario(
    "constants",
    "Other constants than alpha 5 ms, beta 0.25 ms, SLO 50 ms, 64 rows, 4 replicas.",
    [
        Case(_named(what, policy, load), partial(run_steady, policy=policy, load=load, plant=plant))
        for what, plant in PLANTS.items()
        for load in CONSTANT_LOADS
        for policy in RIVALS
    ],
    (*USUAL, ROWS_COLUMN),
    2.0,
    _judge_constants,
)

ROWS = {"1 to 8 rows": Kind(some_rows), "1 row, or 32 (1 in 20)": Kind(few_or_many_rows)}
ROWS_LOADS = (0.5, 0.95, 2.0, 10.0)


def _judge_rows(found: Found) -> list[Verdict]:
    return [
        at_least(
            f"goodput, {_named(what, OURS, load)}, %",
            found.estimate(_named(what, OURS, load), "goodput"),
            LEAST_GOODPUT,
            PERCENT,
        )
        for what in ROWS
        for load in (2.0, 10.0)
    ]


rows = Scenario(
    "rows",
    "Requests of several rows; loads and goodput in rows.",
    [
        Case(_named(what, policy, load), partial(run_steady, policy=policy, load=load, kind=kind))
        for what, kind in ROWS.items()
        for load in ROWS_LOADS
        for policy in RIVALS
    ],
    (*USUAL, ROWS_COLUMN),
    3.0,
    _judge_rows,
)

EIGHT = replace(REFERENCE, models=8)
# The most asked model gets as much as all others together, roughly.
SKEWED = (0,) * 8 + (1,) * 4 + (2,) * 2 + (3, 4, 5, 6, 7)
MODELS = {"8 models alike": Kind(models=tuple(range(8))), "8 models, skewed": Kind(models=SKEWED)}

models = Scenario(
    "models",
    "Eight models on the same four replicas; capacity is that of one model in full batches, which "
    "eight cannot fill within the SLO.",
    [
        Case(
            _named(what, policy, load),
            partial(run_steady, policy=policy, load=load, kind=kind, plant=EIGHT),
        )
        for what, kind in MODELS.items()
        for load in (0.05, 0.3, 0.5, 0.8, 2.0)
        for policy in RIVALS
    ],
    (*USUAL, ROWS_COLUMN),
    3.0,
)
