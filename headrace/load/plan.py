"""What a load is: everything that is decided before its first request is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chassis.connections import PLAIN, Access
from chassis.errors import InvalidArgument
from headrace.load.arrivals import Arrivals
from headrace.load.mix import Mix

MAX_PROCESSES = 64
MAX_CONNECTIONS = 1024


@dataclass(frozen=True, slots=True)
class Trace:
    """A recorded load to repeat."""

    # JSONL, as `headrace.load.trace` reads it.
    file: Path
    # What comes later is left out; None: all of it.
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and not 0 < self.seconds < float("inf"):
            raise _bad("seconds", f"{self.seconds:g}: expected a time above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """One load on one model of one server. Raises InvalidArgument (BAD_PLAN)."""

    # host:port of any server of the Open Inference Protocol over gRPC.
    address: str
    model: str
    arrivals: Arrivals | Trace
    # The model version asked for; empty leaves it to the server.
    version: str = ""
    mix: Mix = field(default_factory=Mix)
    # Least and most rows of a request, drawn evenly; where the model has no batch, (1, 1).
    rows: tuple[int, int] = (1, 1)
    # Sizes, without the batch, of inputs whose sizes the server leaves open.
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    # Arrays to send by input name; their rows are taken in turn. The others are random.
    inputs: Mapping[str, Any] = field(default_factory=dict)
    # Seconds of load before what counts: connections, caches and learned latencies settle.
    warmup_s: float = 0.0
    # Seconds after its intended time at which a request without a deadline is given up.
    timeout_s: float = 30.0
    # Whether the time left also travels as the parameter `timeout`, in microseconds. On streams it
    # always does: their requests have no deadline of their own.
    timeout_parameter: bool = False
    # HTTP/2 connections of each process; requests take them in turn.
    connections: int = 1
    # ModelStreamInfer streams of each process and token; 0 asks by unary ModelInfer.
    streams: int = 0
    # Load processes; arrivals are dealt out to them in turn.
    processes: int = 1
    # How often a request that was refused or found no server is tried again.
    retries: int = 0
    # Requests under way at once, of all processes; what is due beyond it is not sent.
    max_outstanding: int = 10_000
    # Seconds of one line of the time series.
    interval_s: float = 1.0
    # Of arrivals, mix, contents and backoff.
    seed: int = 0
    # TLS and the token of requests whose tenant has none.
    access: Access = PLAIN

    def __post_init__(self) -> None:
        least, most = self.rows
        if not 1 <= least <= most:
            raise _bad("rows", f"{least}-{most}: expected 1 or more, the smaller number first")
        for name, span in (("timeout", self.timeout_s), ("interval", self.interval_s)):
            if not 0 < span < float("inf"):
                raise _bad(name, f"{span:g} s: expected a time above 0")
        if not 0 <= self.warmup_s < float("inf"):
            raise _bad("warmup", f"{self.warmup_s:g} s: expected 0 or more")
        for name, value, bound in (
            ("connections", self.connections, MAX_CONNECTIONS),
            ("processes", self.processes, MAX_PROCESSES),
        ):
            if not 1 <= value <= bound:
                raise _bad(name, f"{value}: expected 1 to {bound}")
        if not 0 <= self.streams <= MAX_CONNECTIONS or self.retries < 0 or self.seed < 0:
            raise _bad("streams, retries and seed", "expected 0 or more")
        if self.max_outstanding < self.processes:
            raise _bad("max-outstanding", f"{self.max_outstanding}: expected 1 for each process")


def _bad(what: str, cause: str) -> InvalidArgument:
    return InvalidArgument("BAD_PLAN", f"{what}: {cause}")
