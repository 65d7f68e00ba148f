"""A load process: reads its job from standard input, sends its part, writes what it measured.

Started by `headrace.load.run`, one a processor core at most; one event loop, which the parent's
live view and arithmetic do not disturb.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import sys
import time
from array import array
from typing import Any

import uvloop

from chassis.errors import HeadraceError
from headrace.load.job import Job, Part, Progress
from headrace.load.messages import Bodies
from headrace.load.schedule import planned, recorded
from headrace.load.sender import Sender
from headrace.load.tally import MICROSECONDS, Tally, packed
from headrace.load.transport import (
    Connections,
    StreamTransport,
    Transport,
    UnaryTransport,
    guarded,
    metadata_of,
)

CONNECT_WITHIN_S = 10.0
PROGRESS_EVERY_S = 0.25
# A job's line names the size of every body.
LONGEST_LINE = 64 * 1024 * 1024


async def work() -> None:
    """One job, from its line to its result."""
    orders = await _standard_input()
    job = Job.of_line(await orders.readline())
    bodies = job.bodies(await orders.readexactly(job.total_bytes))
    try:
        transport = transport_of(job)
        if not await transport.ready(CONNECT_WITHIN_S):
            _say(failed=_failure("UNREACHABLE", f"no server answers at {job.plan.address}"))
            return
        _say(part=(await _measured(job, bodies, transport, orders)).record())
        await transport.close()
    except HeadraceError as error:
        _say(failed=_failure(error.reason, error.message))


def transport_of(job: Job) -> Transport:
    """As the plan asks. Raises InvalidArgument (BAD_TLS_FILE, TOKEN_IN_PLAINTEXT)."""
    plan = job.plan
    access = guarded(plan.access, plan.mix.tenants)
    connections = Connections(plan.address, plan.connections, access)
    tenants = [metadata_of(plan.access, tenant) for tenant in plan.mix.tenants]
    if plan.streams:
        return StreamTransport(connections, tenants, plan.streams)
    return UnaryTransport(connections, tenants, timeout_parameter=plan.timeout_parameter)


async def _measured(
    job: Job, bodies: Bodies, transport: Transport, orders: asyncio.StreamReader
) -> Part:
    plan = job.plan
    schedule = planned(plan, recorded(plan), part=job.part, parts=plan.processes)
    sender = Sender(plan, bodies, transport, most_out=job.most_out, part=job.part)
    # What is there now stays; looking through it again would only delay requests.
    gc.collect()
    gc.freeze()
    _say(ready=True)
    stopped = asyncio.Event()
    start_at = await _start_order(orders)
    if start_at is None:
        sender.stop()
        stopped.set()
    watching = asyncio.create_task(_stop_order(orders, sender, stopped))
    telling = asyncio.create_task(_tell_progress(sender))
    cpu_s = time.process_time()
    await sender.run(schedule, start_at or 0.0)
    cpu_s = time.process_time() - cpu_s
    for task in (watching, telling):
        task.cancel()
    tallies = sender.counted.tallies
    sent = sum(tally.sent for tally in _all_tallies(sender))
    return Part(tallies, sender.counted.lag, cpu_s, sent, stopped.is_set())


async def _start_order(orders: asyncio.StreamReader) -> float | None:
    """When to start; None where the parent stops or is gone."""
    line = await orders.readline()
    start_at = json.loads(line).get("start_at") if line else None
    return None if start_at is None else float(start_at)


async def _stop_order(orders: asyncio.StreamReader, sender: Sender, stopped: asyncio.Event) -> None:
    await orders.readline()
    stopped.set()
    sender.stop()


async def _tell_progress(sender: Sender) -> None:
    while True:
        await asyncio.sleep(PROGRESS_EVERY_S)
        _say(progress=dataclasses.asdict(progress_of(sender)))


def progress_of(sender: Sender) -> Progress:
    """Counts so far; takes the newest latencies away."""
    tallies = _all_tallies(sender)
    newest = sender.warmup.newest_us + sender.counted.newest_us
    sender.warmup.newest_us = array(MICROSECONDS)
    sender.counted.newest_us = array(MICROSECONDS)
    return Progress(
        offered=sum(tally.offered for tally in tallies),
        answered=sum(tally.answered for tally in tallies),
        good=sum(tally.good for tally in tallies),
        failed=sum(tally.failures for tally in tallies),
        not_sent=sum(tally.not_sent for tally in tallies),
        outstanding=len(sender.out),
        newest_us=packed(newest),
    )


def _all_tallies(sender: Sender) -> list[Tally]:
    return [*sender.warmup.tallies.values(), *sender.counted.tallies.values()]


async def _standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


def _failure(reason: str, message: str) -> dict[str, str]:
    return {"reason": reason, "message": message}


def _say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Runs the job on standard input."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


if __name__ == "__main__":
    main()
