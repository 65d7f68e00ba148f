"""Callers under load: each asks, checks nothing, and writes down what came back.

Deadlines travel as the protocol's `timeout` parameter and the call itself may take longer, so that
what is recorded is when the system answered, not when the client gave up on it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from time import monotonic

from benchmarks.chaos.exact import NAME, digest_of, inputs_of
from benchmarks.chaos.record import Recorder
from chassis.errors import HeadraceError
from headrace.client import AsyncClient

MICROSECONDS = 1_000_000
# What the client waits beyond the deadline for an answer that is late.
PATIENCE_S = 10.0
MOST_ROWS = 4
PULSE_S = 0.01
CONNECT_TRIES = 20


@dataclass(frozen=True, slots=True)
class Load:
    """`callers` ask side by side and rest `pause_s` after each answer.

    Every `hurried_every`th call of a caller has `hurried_s` instead of `timeout_s`.
    """

    address: str
    seed: int
    callers: int = 8
    pause_s: float = 0.03
    timeout_s: float = 10.0
    hurried_s: float = 0.1
    hurried_every: int = 16


class _Pulse:
    """How late this process's timers fire: how long nobody here could have taken an answer."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        self._beat_at = monotonic()

    async def beat(self) -> None:
        while True:
            self._beat_at = monotonic()
            await asyncio.sleep(PULSE_S)
            now = monotonic()
            self._late.append((now, now - self._beat_at - PULSE_S))
            if len(self._late) > 4096:
                del self._late[:2048]

    def lag_s(self, since: float) -> float:
        """The time lost since then, and by a beat that is overdue now."""
        overdue = max(0.0, monotonic() - self._beat_at - PULSE_S)
        lost = sum(late for at, late in self._late if at >= since and late > PULSE_S)
        return overdue + lost


def ask(done: Event, load: Load, directory: Path) -> None:
    """Keeps the load up until `done`."""
    asyncio.run(_ask(done, load, directory))


async def _ask(done: Event, load: Load, directory: Path) -> None:
    pulse = _Pulse()
    with Recorder(directory, "clients") as recorder:
        async with AsyncClient(load.address, timeout_s=load.timeout_s + PATIENCE_S) as client:
            # A load begins on a connection that stands: what connecting costs is no fault's.
            for _ in range(CONNECT_TRIES):
                if await client.ready(NAME):
                    break
            beating = asyncio.create_task(pulse.beat())
            async with asyncio.TaskGroup() as group:
                for number in range(load.callers):
                    caller = _Caller(client, load, recorder, pulse, number)
                    group.create_task(caller.run(done))
            beating.cancel()


class _Caller:
    def __init__(
        self, client: AsyncClient, load: Load, recorder: Recorder, pulse: _Pulse, number: int
    ) -> None:
        self._client = client
        self._load = load
        self._recorder = recorder
        self._pulse = pulse
        # No two calls of a run ask about the same rows.
        self._seed = ((load.seed * 1000) + number) * 1_000_000
        self._asked = 0

    async def run(self, done: Event) -> None:
        while not done.is_set():
            await self._call()
            await asyncio.sleep(self._load.pause_s)

    async def _call(self) -> None:
        self._asked += 1
        seed, rows = self._seed + self._asked, 1 + self._asked % MOST_ROWS
        hurried = self._asked % self._load.hurried_every == 0
        timeout_s = self._load.hurried_s if hurried else self._load.timeout_s
        at = monotonic()
        outcome = await self._outcome(seed, rows, timeout_s)
        ended = monotonic()
        self._recorder.write(
            "call",
            at=at,
            seed=seed,
            rows=rows,
            timeout_s=timeout_s,
            ended=ended,
            lag_s=round(self._pulse.lag_s(at), 4),
            **outcome,
        )

    async def _outcome(self, seed: int, rows: int, timeout_s: float) -> dict[str, object]:
        request_id = str(seed)
        try:
            answer = await self._client.predict(
                NAME,
                {"x": inputs_of(seed, rows)},
                request_id=request_id,
                parameters={"timeout": int(timeout_s * MICROSECONDS)},
                timeout_s=timeout_s + PATIENCE_S,
            )
        except HeadraceError as error:
            return {"code": error.code.name, "reason": error.reason, "message": error.message}
        return {
            "code": "OK",
            "reason": "",
            "message": "",
            "version": answer.version,
            "digest": digest_of(answer["y"]),
            "echoed": answer.request_id == request_id,
        }
