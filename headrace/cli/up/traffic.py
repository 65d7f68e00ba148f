"""A steady stream of held-out rows through the gateway, and the tally of what came back.

A generative model is asked by a stream, and its answer is there with its last response. Latency
counts from the moment a request was due, not from when it could be sent, so that a stalled
sender does not hide a stalled system.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from chassis.errors import HeadraceError, Unavailable

if TYPE_CHECKING:
    from headrace.client import AsyncClient
    from headrace.model import Arrays, Model

RECENT = 2_000
TIMEOUT_S = 10.0
# Replies a version needs before its accuracy is worth a number.
SCORED_ENOUGH = 30


@dataclass(slots=True)
class Tally:
    """What came back: counts, latencies in seconds, and scores by the version that answered."""

    requests: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=RECENT))
    scores: dict[int, list[float]] = field(default_factory=dict)

    def on_answer(self, version: int, score: float | None, latency_s: float, now: float) -> None:
        """A reply came `latency_s` seconds after its request was due."""
        self.requests += 1
        self.latencies_s.append(latency_s)
        self.recent.append((now, latency_s))
        scores = self.scores.setdefault(version, [])
        if score is not None:
            scores.append(score)

    def on_failure(self, reason: str) -> None:
        """A request ended in an error."""
        self.requests += 1
        self.failed += 1
        self.errors[reason] += 1

    def accuracies(self) -> list[tuple[int, float]]:
        """(version, mean score) of every version with enough scored replies, oldest first."""
        return [
            (version, float(np.mean(scores)))
            for version, scores in sorted(self.scores.items())
            if len(scores) >= SCORED_ENOUGH
        ]

    def rate(self, now: float, span_s: float = 2.0) -> float:
        """Answers per second over the last `span_s` seconds."""
        return sum(1 for at, _ in self.recent if at > now - span_s) / span_s

    def percentiles_ms(self, *, recent: bool) -> tuple[float, float]:
        """p50 and p99 in milliseconds, of the recent replies or of all."""
        values = [latency for _, latency in self.recent] if recent else self.latencies_s
        if not values:
            return 0.0, 0.0
        p50, p99 = np.percentile(values, (50, 99)) * 1e3
        return float(p50), float(p99)


class Traffic:
    """Sends one held-out row at a time, `rate` times a second, until stopped."""

    def __init__(self, client: AsyncClient, model: Model, rate: float, tally: Tally) -> None:
        self._client = client
        self._model = model
        self._interval_s = 1.0 / rate
        self._tally = tally
        self._rows, self._labels = model.samples()
        self._outstanding: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Sends until cancelled; `drain` then waits for what is still out."""
        loop = asyncio.get_running_loop()
        count = len(next(iter(self._rows.values())))
        order = np.random.default_rng(0).permutation(count)
        due, sent = loop.time(), 0
        while True:
            row = int(order[sent % count])
            task = asyncio.create_task(self._ask(row, due))
            self._outstanding.add(task)
            task.add_done_callback(self._outstanding.discard)
            sent += 1
            due += self._interval_s
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def drain(self) -> None:
        """Waits for every request that was sent."""
        await asyncio.gather(*self._outstanding)

    async def _ask(self, row: int, due: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            version, score = await self._answer(row)
        except HeadraceError as error:
            self._tally.on_failure(error.reason)
            return
        now = loop.time()
        self._tally.on_answer(version, score, now - due, now)

    async def _answer(self, row: int) -> tuple[int, float | None]:
        """The version that answered and how good the answer is.

        A generative model's answer is all its responses; there is no one way to score them.
        """
        name, inputs = self._model.name, self._inputs(row)
        if not self._model.decoupled:
            answer = await self._client.predict(name, inputs, timeout_s=TIMEOUT_S)
            return answer.version, self._score(answer.outputs, row)
        version = 0
        async for part in self._client.generate(name, inputs, timeout_s=TIMEOUT_S):
            version = part.version
        if not version:
            raise Unavailable("NO_RESPONSES", "the model gave no response to its own samples")
        return version, None

    def _inputs(self, row: int) -> Arrays:
        if not self._model.max_batch_size:
            return self._rows
        return {name: array[row : row + 1] for name, array in self._rows.items()}

    def _score(self, outputs: dict[str, Any], row: int) -> float | None:
        if self._labels is None:
            return None
        return float(self._model.score(outputs, self._labels[row : row + 1])[0])
