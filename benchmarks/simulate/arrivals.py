"""When requests come: traces drawn from a seed, or recorded ones; any number of streams merge.

A trace is an iterator of arrivals in order of time, endless unless it was recorded.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import pi, sin

from headrace.load.trace import TraceEntry

# Rows a second at a point in time.
Rate = Callable[[float], float]
# Rows of one request.
Rows = Callable[[random.Random], int]
# The class of what names none.
ORDINARY = 2


@dataclass(frozen=True, slots=True)
class Arrival:
    """Seconds since the beginning, rows, class, tenant, and the number of the model."""

    at_s: float
    rows: int = 1
    priority: int = ORDINARY
    tenant: str = ""
    model: int = 0


def one_row(draw: random.Random) -> int:
    """Each request has one."""
    del draw
    return 1


def some_rows(draw: random.Random) -> int:
    """1 to 8, each as likely."""
    return draw.randint(1, 8)


def few_or_many_rows(draw: random.Random) -> int:
    """1 mostly, and now and then half a batch of 64."""
    return 32 if draw.random() < 0.05 else 1


@dataclass(frozen=True, slots=True)
class Kind:
    """What the requests of a stream have in common; of each model as many."""

    rows: Rows = one_row
    priority: int = ORDINARY
    tenant: str = ""
    models: Sequence[int] = (0,)


PLAIN = Kind()


def poisson(draw: random.Random, rate: float, kind: Kind = PLAIN) -> Iterator[Arrival]:
    """`rate` requests a second, independent of each other."""
    at_s = 0.0
    while True:
        at_s += draw.expovariate(rate)
        yield _arrival(at_s, draw, kind)


def varying(draw: random.Random, rate: Rate, most: float, kind: Kind = PLAIN) -> Iterator[Arrival]:
    """Poisson with a rate that changes with time and is never above `most`.

    Source: thinning (Lewis and Shedler, 1979).
    """
    at_s = 0.0
    while True:
        at_s += draw.expovariate(most)
        if draw.random() * most < rate(at_s):
            yield _arrival(at_s, draw, kind)


def bursty(
    draw: random.Random,
    rate: float,
    kind: Kind = PLAIN,
    *,
    on_s: float = 0.1,
    off_s: float = 0.2,
    off_share: float = 0.25,
) -> Iterator[Arrival]:
    """Markov-modulated: `rate` on average, in bursts and lulls of exponential lengths.

    A lull has `off_share` of the average rate.
    """
    on_rate = rate * (on_s + off_s * (1 - off_share)) / on_s
    at_s, on, until_s = 0.0, False, draw.expovariate(1 / off_s)
    while True:
        next_s = at_s + draw.expovariate(on_rate if on else rate * off_share)
        if next_s > until_s:
            # Memoryless: what is left of the gap is drawn anew at the new rate.
            at_s, on = until_s, not on
            until_s += draw.expovariate(1 / (on_s if on else off_s))
            continue
        at_s = next_s
        yield _arrival(at_s, draw, kind)


def diurnal(
    draw: random.Random, rate: float, kind: Kind = PLAIN, *, day_s: float = 4.0, swing: float = 0.8
) -> Iterator[Arrival]:
    """A day pressed into `day_s`: the rate swings around its average by `swing` of it."""
    return varying(
        draw, lambda at_s: rate * (1 + swing * sin(2 * pi * at_s / day_s)), rate * (1 + swing), kind
    )


def step(
    draw: random.Random, rate: float, high: float, begin_s: float, end_s: float, kind: Kind = PLAIN
) -> Iterator[Arrival]:
    """`rate`, but `high` between two points in time."""
    return varying(
        draw, lambda at_s: high if begin_s <= at_s < end_s else rate, max(rate, high), kind
    )


def recorded(entries: Sequence[TraceEntry], *, scale: float = 1.0) -> Iterator[Arrival]:
    """What `headrace load` recorded or replays, counted from the first entry.

    `scale` presses them together by so much. Classes count by their priority alone.
    """
    for entry in entries:
        priority = ORDINARY if entry.priority is None else entry.priority
        at_s = (entry.at_s - entries[0].at_s) / scale
        yield Arrival(at_s, entry.rows or 1, priority, entry.tenant)


def merge(*streams: Iterator[Arrival]) -> Iterator[Arrival]:
    """All streams as one, in order of time."""
    return heapq.merge(*streams, key=lambda arrival: arrival.at_s)


def _arrival(at_s: float, draw: random.Random, kind: Kind) -> Arrival:
    model = kind.models[0] if len(kind.models) == 1 else draw.choice(kind.models)
    return Arrival(at_s, kind.rows(draw), kind.priority, kind.tenant, model)
