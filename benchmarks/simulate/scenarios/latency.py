"""How long answers take while there is room."""

from __future__ import annotations

from functools import partial

from benchmarks.simulate.policies import OURS, POLICIES, TIMERS
from benchmarks.simulate.scenario import (
    IN_SLO,
    P50,
    P99,
    Case,
    Column,
    Found,
    Scenario,
    Verdict,
    at_most,
)
from benchmarks.simulate.scenarios.overload import name_at
from benchmarks.simulate.scenarios.steady import REFERENCE, run_steady

LOADS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
WHILE_BUSY = "while busy, drop expired"
MILLISECONDS = 1000


def _judge(found: Found) -> list[Verdict]:
    mid = name_at(OURS, 0.5)
    timer = found.least([name_at(name, 0.5) for name in TIMERS], "p99_ms")
    alone_ms = REFERENCE.speed.seconds(1) * MILLISECONDS
    return [
        at_most(
            f"p99 at 0.5, of the best timer's ({timer})",
            found.ratio(mid, timer, "p99_ms"),
            0.75,
            1,
            2,
        ),
        at_most(
            "p99 at 0.5, of batch-while-busy's",
            found.ratio(mid, name_at(WHILE_BUSY, 0.5), "p99_ms"),
            0.75,
            1,
            2,
        ),
        at_most(
            "p50 at 0.05, ms (1.15 l(1))",
            found.estimate(name_at(OURS, 0.05), "p50_ms"),
            1.15 * alone_ms,
            1,
            2,
        ),
    ]


latency = Scenario(
    "latency",
    "Latency of answers below capacity (Poisson).",
    [
        Case(name_at(policy, load), partial(run_steady, policy=policy, load=load))
        for policy in POLICIES
        for load in LOADS
    ],
    (P50, P99, IN_SLO, Column("batch_rows", "rows a batch")),
    4.0,
    _judge,
)
