"""What is done to the plant, and what came out of it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from benchmarks.cpu import cpu_seconds
from benchmarks.scheduling.plant import MODEL, POLICIES, Plant, Running, running
from headrace.load.arrivals import Arrivals, Step
from headrace.load.mix import Mix, Tenant, TrafficClass
from headrace.load.plan import LoadPlan
from headrace.load.results import LoadResult
from headrace.load.run import measure
from headrace.load.tally import Tally

OURS = "headrace"
OFFERED = (0.05, 0.5, 0.95, 1.1, 2.0, 5.0, 10.0)
# Of the capacity, where something goes wrong beside the load.
STEADY = 0.6
WARM_UP_S = 6.0
# Clients that neither give up nor insist: what the server does is seen.
PATIENCE_S = 15.0
STOPPED_S = 4.0
BURST, BURST_S = 3.0, 5.0
# Of the time series.
INTERVAL_S = 0.2
# Of the requests of an interval in time: recovered.
RECOVERED = 0.99


@dataclass(frozen=True, slots=True)
class Line:
    """One measurement: of a policy, a scenario, and a class or tenant of its load.

    `offered` is a multiple of the capacity; `goodput` the share of the capacity answered in time;
    `in_time` and `late` are shares of the requests; `gateway_us` is CPU time per request. After a
    burst all requests are in time again, for good, from `recovery_s` on.
    """

    scenario: str
    policy: str
    offered: float
    who: str
    requests: int
    goodput: float
    in_time: float
    late: float
    p50_ms: float
    p99_ms: float
    failed: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    tries: int = 0
    gateway_us: float = 0.0
    kept_up: bool = True
    recovery_s: float | None = None


Act = Callable[[Running], None]


@dataclass(frozen=True, slots=True)
class Measurement:
    """A load on a plant; `acts` happen so many seconds after its counted part began."""

    scenario: str
    policy: str
    offered: float
    seconds: float
    mix: Mix = field(default_factory=Mix)
    steps: tuple[tuple[float, float], ...] = ()
    retries: int = 0
    slow: bool = False
    acts: tuple[tuple[float, Act], ...] = ()

    @property
    def burst_ends_s(self) -> float | None:
        """When the load is as before; None if it never was another."""
        return self.steps[0][1] + self.steps[1][1] if self.steps else None


def measurements(
    seconds: float, *, baselines: bool, failures: bool, loads: Sequence[float] = OFFERED
) -> Iterator[Measurement]:
    """All of them, in an order that lets one gateway follow another."""
    for policy in POLICIES if baselines else (OURS,):
        for offered in loads:
            yield Measurement("offered load", policy, offered, seconds)
    if failures:
        yield from _failures(seconds)


def _failures(seconds: float) -> Iterator[Measurement]:
    third = seconds / 3
    yield Measurement("all healthy", OURS, STEADY, seconds)
    yield Measurement("one 10 times slower", OURS, STEADY, seconds, slow=True)
    yield Measurement(
        "one killed -9",
        OURS,
        STEADY,
        seconds,
        acts=((third, lambda it: it.signal(0, signal.SIGKILL)),),
    )
    yield Measurement(
        "one stopped for 4 s",
        OURS,
        STEADY,
        seconds,
        acts=(
            (third, lambda it: it.signal(0, signal.SIGSTOP)),
            (third + STOPPED_S, lambda it: it.signal(0, signal.SIGCONT)),
        ),
    )
    yield Measurement(
        "12-fold flood of the lowest class",
        OURS,
        12.3,
        seconds,
        mix=Mix(
            classes=(
                TrafficClass("top", priority=1, share=0.3),
                TrafficClass("lowest", priority=3, share=12.0),
            )
        ),
    )
    yield Measurement(
        "two tenants, one floods",
        OURS,
        4.0,
        seconds,
        mix=Mix(tenants=(Tenant("loud", share=3.6), Tenant("quiet", share=0.4))),
    )
    yield Measurement(
        "two equal tenants, twice the capacity",
        OURS,
        2.0,
        seconds,
        mix=Mix(tenants=(Tenant("a", share=1.0), Tenant("b", share=1.0))),
    )
    for name, retries in (("burst of 5 s", 0), ("burst of 5 s, clients retry 3 times", 3)):
        yield Measurement(
            name,
            OURS,
            STEADY,
            seconds,
            steps=((STEADY, third), (BURST, BURST_S), (STEADY, seconds - third)),
            retries=retries,
        )


class Bench:
    """Runs measurements; keeps the replicas while only the gateway changes."""

    def __init__(self, plant: Plant, *, processes: int = 1) -> None:
        self._plant = plant
        self._processes = processes

    def run(self, what: Measurement) -> list[Line]:
        """One measurement with processes of its own: nothing learned before counts."""
        with running(self._plant, what.policy, slow=what.slow) as stack:
            assert stack.gateway is not None
            before_s = cpu_seconds(stack.gateway.pid)
            result = asyncio.run(self._load(what, stack))
            cpu_s = cpu_seconds(stack.gateway.pid) - before_s
        gateway_us = cpu_s / result.requests * 1e6 if result.requests else 0.0
        return [
            replace(line, gateway_us=gateway_us, kept_up=result.kept_up)
            for line in self._lines(what, result)
        ]

    async def _load(self, what: Measurement, stack: Running) -> LoadResult:
        assert stack.gateway is not None
        rates = what.steps or ((what.offered, what.seconds),)
        plan = LoadPlan(
            address=stack.gateway.address(),
            model=MODEL,
            arrivals=Arrivals(
                tuple(Step(share * self._plant.capacity, span) for share, span in rates)
            ),
            mix=self._mix(what.mix),
            warmup_s=WARM_UP_S,
            timeout_s=PATIENCE_S,
            retries=what.retries,
            interval_s=INTERVAL_S,
            processes=self._processes,
            seed=1,
        )
        async with asyncio.TaskGroup() as tasks:
            acts = [
                tasks.create_task(_later(WARM_UP_S + at_s, act, stack)) for at_s, act in what.acts
            ]
            result = await measure(plan)
            for task in acts:
                task.cancel()
        return result

    def _mix(self, mix: Mix) -> Mix:
        """The same, with the plant's objective."""
        objective_s = self._plant.objective_ms / 1000
        classes = tuple(replace(item, objective_s=objective_s) for item in mix.classes)
        return replace(mix, classes=classes)

    def _lines(self, what: Measurement, result: LoadResult) -> Iterator[Line]:
        yield self._line(what, result, "all", result.total)
        for members in (result.by_class(), result.by_tenant()):
            found = list(members)
            if len(found) > 1:
                for name, tally in found:
                    yield self._line(what, result, name, tally)

    def _line(self, what: Measurement, result: LoadResult, who: str, tally: Tally) -> Line:
        requests = max(tally.offered, 1)
        answered = len(tally.latencies)
        return Line(
            scenario=what.scenario,
            policy=what.policy,
            offered=what.offered,
            who=who,
            requests=tally.offered,
            goodput=tally.good / (result.seconds * self._plant.capacity),
            in_time=tally.good / requests,
            late=(answered - tally.good) / requests,
            p50_ms=tally.latencies.percentile_s(50) * 1000,
            p99_ms=tally.latencies.percentile_s(99) * 1000,
            failed=dict(tally.failed),
            reasons=dict(tally.reasons),
            tries=tally.tries,
            recovery_s=recovery_s(tally, what.burst_ends_s),
        )


async def _later(delay_s: float, act: Act, stack: Running) -> None:
    await asyncio.sleep(delay_s)
    act(stack)


def recovery_s(tally: Tally, burst_ends_s: float | None) -> float | None:
    """From the end of the burst until after the last interval in which too few were in time."""
    if burst_ends_s is None:
        return None
    bad = [
        (number + 1) * INTERVAL_S
        for number, interval in tally.intervals.items()
        if number * INTERVAL_S >= burst_ends_s and interval.good < RECOVERED * interval.offered
    ]
    return max(bad, default=burst_ends_s) - burst_ends_s
