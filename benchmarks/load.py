"""The closed loop: as many requests outstanding as asked for, each answer sends the next.

A process of its own (`python -m benchmarks.load JSON`), so that the client shares no interpreter
with what it measures. Requests are serialized once and replies are not parsed, only weighed: a
client on the same cores must cost little. What it costs is reported beside the rest.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop

from benchmarks.counters import CounterReader, Counters
from chassis.connections import open_aio_channel
from chassis.infer import encoded_inputs, infer_request
from chassis.oip import SERVICE

REQUEST_TIMEOUT_S = 30.0
# A refused request must not be repeated at the speed of the loop.
PAUSE_AFTER_FAILURE_S = 0.01
DISTINCT_REQUESTS = 64
# Every answer names the age of its weights in a varint: after 16 seconds and after 35 minutes it
# needs a byte more. Less than the smallest value of an output.
AGE_GROWS_BYTES = 2
# Beyond its own seconds, what a load process may take to start, warm up and drain.
SLACK_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One point to measure.

    `samples` is an .npz file of rows by input name, `rows` how many of them a request carries;
    `processes` are the pids whose CPU time counts, by role; `admin` is the gateway's admin address,
    empty where no gateway is asked.
    """

    address: str
    model: str
    samples: str
    rows: int
    outstanding: int
    seconds: float
    warm_up_s: float
    processes: Mapping[str, Sequence[int]]
    admin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What `seconds` of a load gave.

    `requests` were answered, `failures` count the rest by status; `cpu_us` is microseconds of CPU
    per answered request, by role, "client" included; `rows_per_batch` is 0 without a gateway.
    `other_cores` is how many cores other work on the machine, and the kernel, kept busy meanwhile.
    """

    requests: int
    failures: Mapping[str, int]
    seconds: float
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    rows_per_batch: float
    cpu_us: Mapping[str, float]
    other_cores: float


@dataclass(slots=True)
class ClosedLoop:
    """Workers that each keep one request outstanding until `stopping`."""

    call: Callable[..., Any]
    requests: Sequence[bytes]
    latencies_s: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    stopping: bool = False
    _reply_bytes: int = 0

    async def work(self, first: int, answered: asyncio.Event) -> None:
        """Sends requests in turn, beginning with the `first`; `answered` after one came back."""
        for number in itertools.count(first):
            await self._ask(self.requests[number % len(self.requests)])
            answered.set()
            if self.stopping:
                return

    async def _ask(self, request: bytes) -> None:
        began = time.perf_counter()
        try:
            reply = await self.call(request, timeout=REQUEST_TIMEOUT_S)
        except grpc.RpcError as error:
            self.failures[error.code().name] += 1
            await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
            return
        self.latencies_s.append(time.perf_counter() - began)
        # Same model, same rows, one version: an answer of another size is a wrong answer.
        self._reply_bytes = self._reply_bytes or len(reply)
        if abs(len(reply) - self._reply_bytes) > AGE_GROWS_BYTES:
            self.failures["WRONG_SIZE"] += 1


async def measure(load: Load) -> Outcome:
    """Warms up, then measures. Raises grpc.RpcError if the gateway's counters cannot be read."""
    channel = open_aio_channel(load.address)
    reader = CounterReader(load.model, load.processes, load.admin)
    loop = ClosedLoop(channel.unary_unary(f"/{SERVICE}/ModelInfer"), requests_of(load))
    try:
        async with asyncio.TaskGroup() as workers:
            answered = [asyncio.Event() for _ in range(load.outstanding)]
            for first, event in enumerate(answered):
                workers.create_task(loop.work(first, event))
            await asyncio.sleep(load.warm_up_s)
            await asyncio.gather(*(event.wait() for event in answered))
            outcome = await _observed(loop, reader, load.seconds)
            loop.stopping = True
        return outcome
    finally:
        await reader.close()
        await channel.close()


async def _observed(loop: ClosedLoop, reader: CounterReader, seconds: float) -> Outcome:
    before = await reader.read()
    first, failed = len(loop.latencies_s), Counter(loop.failures)
    await asyncio.sleep(seconds)
    used = (await reader.read()).since(before)
    return _outcome(loop.latencies_s[first:], loop.failures - failed, used)


def _outcome(latencies_s: Sequence[float], failures: Counter[str], used: Counters) -> Outcome:
    requests = len(latencies_s)
    p50, p99 = np.percentile(latencies_s or [0.0], (50, 99)) * 1e3
    return Outcome(
        requests=requests,
        failures=dict(failures),
        seconds=used.at,
        requests_per_s=requests / used.at,
        p50_ms=float(p50),
        p99_ms=float(p99),
        rows_per_batch=used.rows / used.batches if used.batches else 0.0,
        cpu_us={role: spent / max(requests, 1) * 1e6 for role, spent in used.cpu_s.items()},
        other_cores=max(0.0, used.busy_s - sum(used.cpu_s.values())) / used.at,
    )


def requests_of(load: Load) -> list[bytes]:
    """Serialized requests of `load.rows` rows each, taken from the samples in turn."""
    with np.load(load.samples) as samples:
        arrays = dict(samples)
    count = len(next(iter(arrays.values())))
    picks = np.arange(min(DISTINCT_REQUESTS, count))[:, None] + np.arange(load.rows)
    return [
        infer_request(
            model=load.model,
            inputs=encoded_inputs({name: array[pick] for name, array in arrays.items()}),
        ).SerializeToString()
        for pick in picks % count
    ]


def run_load(load: Load) -> Outcome:
    """Measures in a new process, killed if this one is interrupted.

    Raises subprocess.CalledProcessError, subprocess.TimeoutExpired.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", json.dumps(dataclasses.asdict(load))],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        timeout=load.seconds + load.warm_up_s + SLACK_S,
        check=True,
    )
    return Outcome(**json.loads(done.stdout))


def main() -> None:
    """Measures the load that the one argument describes; prints the outcome as JSON."""
    load = Load(**json.loads(sys.argv[1]))
    # Nothing here makes cycles; collections would only add to the client's cost.
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(measure(load))
    print(json.dumps(dataclasses.asdict(outcome)))


if __name__ == "__main__":
    main()
