"""A job without processes: it says what a test tells it to say, and remembers what it was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

from trainer_service.report import JobReport, Phase


class FakeJob:
    """Stands where a JobProcess stands; `finish` ends it well unless it is `stubborn`."""

    def __init__(self) -> None:
        self.finishing = False
        self.stubborn = False
        self.sent: list[str] = []
        self.code = 0
        self._queue: asyncio.Queue[JobReport | None] = asyncio.Queue()
        self._newest = JobReport(Phase.STEPPING, pid=1)

    def report(self, **changes: object) -> None:
        self._newest = JobReport(Phase.STEPPING, pid=1, **changes)
        self._queue.put_nowait(self._newest)

    def end(self, phase: Phase, *, code: int = 0, **changes: object) -> None:
        self._queue.put_nowait(replace(self._newest, phase=phase, **changes))
        self.die(code)

    def fail(self, *words: str, permanent: bool = False) -> None:
        """As workers and agent do: each has its own word, which may be empty."""
        for word in words:
            self._queue.put_nowait(JobReport(Phase.FAILED, error=word, permanent=permanent))
        self.die(1)

    def die(self, code: int) -> None:
        self.code = code
        self._queue.put_nowait(None)

    def send(self, command: str) -> None:
        self.sent.append(command)

    def finish(self, *, within_s: float) -> None:
        if not self.finishing:
            self.finishing = True
            self.send("finish")
            if not self.stubborn:
                self.end(Phase.RELEASED)

    def kill(self) -> None:
        self.die(-9)

    async def reports(self) -> AsyncGenerator[JobReport, None]:
        while (report := await self._queue.get()) is not None:
            yield report

    def exit_code(self) -> int:
        return self.code
