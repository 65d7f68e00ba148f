"""The gateways that are compared, by name; each is made for a world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from benchmarks.simulate.baselines import Deferred, Timer, WhileBusy
from benchmarks.simulate.gateway import Headrace
from benchmarks.simulate.lines import drop_expired, drop_hopeless, drop_window
from benchmarks.simulate.spreading import Spread, round_robin, shortest_queue, two_choices
from benchmarks.simulate.world import Gateway, World

Make = Callable[[World], Gateway]

OURS = "headrace"
TIMERS: Mapping[str, Make] = {
    f"timer {delay_ms} ms": partial(Timer, delay_s=delay_ms / 1000) for delay_ms in (1, 5, 10)
}
POLICIES: Mapping[str, Make] = {
    **TIMERS,
    "while busy, drop expired": partial(WhileBusy, drop=drop_expired),
    "while busy, drop hopeless": partial(WhileBusy, drop=drop_hopeless),
    "while busy, window drop": partial(WhileBusy, drop=drop_window),
    "deferred": Deferred,
    OURS: Headrace,
}
BALANCERS: Mapping[str, Make] = {
    "round robin": lambda world: Spread(world, round_robin()),
    "two choices": lambda world: Spread(world, two_choices(world.draw("choices"))),
    "shortest queue": lambda world: Spread(world, shortest_queue()),
    "central queue": WhileBusy,
    OURS: Headrace,
}
