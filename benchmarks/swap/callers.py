"""Callers that ask without pause and recompute every answer from the version it names."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchmarks.swap.ballast import layer_of, rows
from chassis.errors import HeadraceError
from headrace.client import AsyncClient
from headrace.prediction import Prediction

# Different inputs; enough that a wrong row shows.
INPUTS = 64


@dataclass(slots=True)
class Seen:
    """What callers saw. `wrong` are answers that no single version gives: torn weights, or a batch
    on two versions; `latencies_s` one of each answer, asked for at `sent_s`; `first_s` when each
    version first answered, on the clock of time.monotonic."""

    answers: int = 0
    wrong: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)
    sent_s: list[float] = field(default_factory=list)
    first_s: dict[int, float] = field(default_factory=dict)


class Callers:
    """`count` callers of a gateway or replica; each has one request out at a time, and rests
    `pause_s` after each answer.

    The train step that an answer names is the seed of its weights.
    """

    def __init__(self, address: str, model: str, count: int, pause_s: float = 0.0) -> None:
        self._pause_s = pause_s
        self._address = address
        self._model = model
        self._count = count
        self.seen = Seen()

    async def until(self, done: asyncio.Event) -> Seen:
        """Asks until `done` is set."""
        async with AsyncClient(self._address) as client, asyncio.TaskGroup() as tasks:
            for caller in range(self._count):
                tasks.create_task(self._ask(client, caller, done))
        return self.seen

    async def _ask(self, client: AsyncClient, caller: int, done: asyncio.Event) -> None:
        number = caller
        while not done.is_set():
            x = rows(1 + number % 4, number % INPUTS)
            started = time.monotonic()
            try:
                answer = await client.predict(self._model, {"x": x})
            except HeadraceError as error:
                self.seen.failed[error.reason] = self.seen.failed.get(error.reason, 0) + 1
                continue
            ended = time.monotonic()
            self.seen.latencies_s.append(ended - started)
            self.seen.sent_s.append(started)
            self.seen.answers += 1
            self.seen.first_s.setdefault(answer.version, ended)
            self.seen.wrong += not is_exact(answer, x)
            number += self._count
            if self._pause_s:
                await asyncio.sleep(self._pause_s)


def is_exact(answer: Prediction, x: npt.NDArray[np.float32]) -> bool:
    """Whether every row of the answer is what the weights of the step it names give."""
    step = answer.train_step
    return step is not None and np.array_equal(answer["y"], x @ layer_of(step).T)
