"""Sends a schedule: each request at its intended time or, late, at once; never waits for answers.

One task walks the schedule, one task a request carries it through its tries. Latency counts from
the intended time, so neither a stalled server nor a stalled generator hides what a caller would
have waited. How late the generator itself was is counted apart.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from headrace.load.alarm import Alarm
from headrace.load.latencies import Latencies
from headrace.load.messages import Bodies, sender_fields
from headrace.load.plan import LoadPlan
from headrace.load.retries import retry_after_s
from headrace.load.schedule import Planned
from headrace.load.tally import MICROSECONDS, Tally
from headrace.load.transport import Answered, Refused, Transport

# Requests sent in a row by a late generator before answers get a turn.
SENT_IN_A_ROW = 32
# How long requests under way may take to end once a load is stopped early.
STOP_GRACE_S = 2.0


@dataclass(slots=True)
class Books:
    """What one process counts: a tally a class and tenant, lateness, and the newest latencies."""

    interval_s: float
    tallies: dict[tuple[int, int], Tally] = field(default_factory=dict)
    # By which requests were sent after their intended time.
    lag: Latencies = field(default_factory=Latencies)
    # Latencies since the last report of progress, in microseconds.
    newest_us: array[int] = field(default_factory=lambda: array(MICROSECONDS))

    def tally(self, request: Planned) -> Tally:
        """That of the request's class and tenant."""
        cell = request.class_index, request.tenant_index
        found = self.tallies.get(cell)
        if found is None:
            found = self.tallies[cell] = Tally(self.interval_s)
        return found


class Sender:
    """One process's part of a load; of one event loop."""

    def __init__(
        self, plan: LoadPlan, bodies: Bodies, transport: Transport, *, most_out: int, part: int
    ) -> None:
        """`most_out` requests may be under way; `part` tells the processes' backoffs apart."""
        self._plan = plan
        self._bodies = bodies
        self._transport = transport
        self._most_out = most_out
        self._draw = np.random.default_rng([plan.seed, 3, part])
        self._fields = [
            [sender_fields(kind, tenant) for tenant in plan.mix.tenants]
            for kind in plan.mix.classes
        ]
        self.counted = Books(plan.interval_s)
        self.warmup = Books(plan.interval_s)
        # Requests under way.
        self.out: set[asyncio.Task[None]] = set()
        self._alarm: Alarm | None = None
        self._stopped = False

    async def run(self, schedule: Iterator[Planned], start_at: float) -> None:
        """Sends it all, time 0 being `start_at` of time.monotonic(); waits for what is out."""
        self._alarm = Alarm()
        try:
            if not self._stopped:
                await self._send(schedule, start_at)
        finally:
            self._alarm.close()
            self._alarm = None
        await self._drain()

    def stop(self) -> None:
        """Sends nothing more; what is out gets `STOP_GRACE_S` seconds."""
        self._stopped = True
        if self._alarm is not None:
            self._alarm.ring()

    async def _send(self, schedule: Iterator[Planned], start_at: float) -> None:
        assert self._alarm is not None
        in_a_row = 0
        for request in schedule:
            due = start_at + request.at_s
            if due > time.monotonic():
                in_a_row = 0
                await self._alarm.wait_until(due)
            elif in_a_row >= SENT_IN_A_ROW:
                in_a_row = 0
                await asyncio.sleep(0)
            if self._stopped:
                return
            in_a_row += 1
            self._offer(request, due)

    def _offer(self, request: Planned, due: float) -> None:
        """Sends a request that is due, or books why not."""
        books = self.counted if request.at_s >= 0 else self.warmup
        tally = books.tally(request)
        tally.on_offered(request.at_s)
        kind = self._plan.mix.classes[request.class_index]
        give_up_at = due + (kind.deadline_s or self._plan.timeout_s)
        now = time.monotonic()
        if len(self.out) >= self._most_out or give_up_at <= now:
            tally.on_not_sent(request.at_s)
            return
        books.lag.record(now - due)
        tally.on_sent()
        task = asyncio.create_task(self._carry(request, books, tally, due, give_up_at))
        self.out.add(task)
        task.add_done_callback(self.out.discard)

    async def _carry(
        self, request: Planned, books: Books, tally: Tally, due: float, give_up_at: float
    ) -> None:
        try:
            outcome = await self._tried(request, tally, give_up_at)
        except asyncio.CancelledError:
            # Only the end of a load that was stopped cancels.
            tally.on_unfinished(request.at_s)
            return
        if isinstance(outcome, Refused):
            tally.on_failure(request.at_s, outcome.code, outcome.reason)
            return
        latency_s = time.monotonic() - due
        good = latency_s <= self._plan.mix.classes[request.class_index].good_within_s
        latency_us = tally.on_answer(request.at_s, latency_s, good=good, version=outcome.version)
        books.newest_us.append(latency_us)

    async def _tried(self, request: Planned, tally: Tally, give_up_at: float) -> Answered | Refused:
        """The outcome of the last try."""
        message = (
            self._bodies.body(request.rows, request.number)
            + self._fields[request.class_index][request.tenant_index]
        )
        left_s = give_up_at - time.monotonic()
        retry = 0
        while True:
            tally.on_try()
            outcome = await self._transport.ask(message, request.tenant_index, left_s)
            if isinstance(outcome, Answered):
                return outcome
            wait_s = retry_after_s(
                outcome.code,
                outcome.pushback,
                retry=retry,
                retries=self._plan.retries,
                draw=float(self._draw.random()) if self._plan.retries else 0.0,
            )
            left_s = give_up_at - time.monotonic()
            if wait_s is None or wait_s >= left_s or self._stopped:
                return outcome
            tally.retried[outcome.code] += 1
            await asyncio.sleep(wait_s)
            left_s = max(give_up_at - time.monotonic(), 0.001)
            retry += 1

    async def _drain(self) -> None:
        """Waits for what is out; each request ends by its own deadline, or with the grace."""
        while self.out and not self._stopped:
            await asyncio.wait(self.out, timeout=0.1)
        if self.out:
            await asyncio.wait(self.out, timeout=STOP_GRACE_S)
        for task in self.out:
            task.cancel()
        if self.out:
            await asyncio.wait(self.out)
