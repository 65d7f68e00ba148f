"""What is sent when: arrivals or a trace, with class, tenant and rows; decided before it is sent.

Pure and seeded. Each load process makes the whole schedule and takes its own part, so that the
union of the parts is the same however many there are. Times of what counts begin at 0; requests of
the warm-up have negative ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from headrace.load.arrivals import CHUNK, Arrivals
from headrace.load.mix import MixDraw
from headrace.load.plan import LoadPlan, Trace
from headrace.load.trace import TraceEntry, mix_with, read_trace, within


class Planned(NamedTuple):
    """One request: its intended time in seconds, and what it carries."""

    at_s: float
    # Of all requests, from 0: names its contents.
    number: int
    # Into the mix's classes and tenants.
    class_index: int
    tenant_index: int
    rows: int


def recorded(plan: LoadPlan) -> tuple[TraceEntry, ...]:
    """The trace's requests, none for arrivals. Raises InvalidArgument (BAD_TRACE)."""
    if not isinstance(plan.arrivals, Trace):
        return ()
    entries = read_trace(plan.arrivals.file)
    if plan.arrivals.seconds is None:
        return entries
    return tuple(within(entries, plan.arrivals.seconds))


def duration_s(plan: LoadPlan, entries: Sequence[TraceEntry]) -> float:
    """Seconds from the first counted moment to the end of the load."""
    if isinstance(plan.arrivals, Arrivals):
        return plan.arrivals.seconds
    end = plan.arrivals.seconds or (entries[-1].at_s if entries else 0.0)
    return max(end - plan.warmup_s, 0.0)


def expected_requests(plan: LoadPlan, entries: Sequence[TraceEntry]) -> float:
    """How many requests the load has, warm-up included; for Poisson arrivals on average."""
    if not isinstance(plan.arrivals, Arrivals):
        return float(len(entries))
    return plan.arrivals.expected + plan.arrivals.steps[0].rate * plan.warmup_s


def planned(
    plan: LoadPlan, entries: Sequence[TraceEntry], *, part: int = 0, parts: int = 1
) -> Iterator[Planned]:
    """The requests of one of `parts` processes, in order of time.

    `entries` are those of `recorded`, and the plan's mix must know their classes and tenants.
    """
    draw = MixDraw(plan.mix, plan.rows, plan.seed)
    first = 0
    for times, told in _chunks(plan, entries):
        count = len(times)
        classes, tenants, rows = (column.tolist() for column in draw.take(count))
        for index, entry in enumerate(told):
            classes[index], tenants[index], rows[index] = _told(
                plan, entry, classes[index], tenants[index], rows[index]
            )
        for index in range((part - first) % parts, count, parts):
            yield Planned(times[index], first + index, classes[index], tenants[index], rows[index])
        first += count


def entries_of(plan: LoadPlan, requests: Iterator[Planned]) -> Iterator[TraceEntry]:
    """What counts of a schedule, as a trace that repeats it."""
    for request in requests:
        if request.at_s < 0:
            continue
        kind = plan.mix.classes[request.class_index]
        tenant = plan.mix.tenants[request.tenant_index]
        yield TraceEntry(request.at_s, kind.name, kind.priority, tenant.name, request.rows)


def completed(plan: LoadPlan, entries: Sequence[TraceEntry]) -> LoadPlan:
    """The plan with the classes, tenants and rows that its trace names."""
    mix = mix_with(entries, plan.mix)
    most = max([plan.rows[1], *(entry.rows for entry in entries if entry.rows)])
    return replace(plan, mix=mix, rows=(plan.rows[0], most)) if entries else plan


def _chunks(
    plan: LoadPlan, entries: Sequence[TraceEntry]
) -> Iterator[tuple[list[float], Sequence[TraceEntry]]]:
    if isinstance(plan.arrivals, Arrivals):
        for times in plan.arrivals.chunks(plan.seed, lead_s=plan.warmup_s):
            yield times.tolist(), ()
        return
    for start in range(0, len(entries), CHUNK):
        some = entries[start : start + CHUNK]
        yield [entry.at_s - plan.warmup_s for entry in some], some


def _told(
    plan: LoadPlan, entry: TraceEntry, class_index: int, tenant_index: int, rows: int
) -> tuple[int, int, int]:
    """What was drawn, except where the entry says."""
    names = [item.name for item in plan.mix.classes]
    if entry.known_class:
        class_index = names.index(entry.known_class)
    if entry.tenant:
        tenant_index = [item.name for item in plan.mix.tenants].index(entry.tenant)
    return class_index, tenant_index, entry.rows or rows
