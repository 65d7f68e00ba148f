"""Child processes of `headrace up`: started, watched, restarted when they die, stopped in order."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chassis.settings import child_environment
from headrace.cli.up.plan import Command

RESTART_AFTER_S = 0.3
STOP_WITHIN_S = 25.0


@dataclass(slots=True)
class Child:
    """One service: its command and the process that runs it now."""

    command: Command
    log: Path
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    last_exit: int = 0


@dataclass(slots=True)
class Children:
    """All services of one loop; between `start` and `stop` a dead one comes back."""

    directory: Path
    members: list[Child] = field(default_factory=list)
    _watchers: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def start(self, commands: Sequence[Command]) -> None:
        """Starts every command, each with its own log file."""
        logs = self.directory / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        for command in commands:
            child = Child(command, logs / f"{command.name}.log")
            self.members.append(child)
            await _spawn(child)
            self._watchers[command.name] = asyncio.create_task(_keep_running(child))

    async def stop(self) -> None:
        """SIGTERM along the data path: gateway, replicas, trainer, store."""
        for watcher in self._watchers.values():
            watcher.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)
        for group in _stop_order(self.members):
            await asyncio.gather(*(_terminate(child) for child in group))

    @property
    def restarts(self) -> int:
        """Times a service died and was started again."""
        return sum(child.restarts for child in self.members)


def _stop_order(members: Sequence[Child]) -> list[list[Child]]:
    order = ("gateway", "replica", "trainer", "valkey")
    return [[child for child in members if child.command.name.startswith(kind)] for kind in order]


async def _spawn(child: Child) -> None:
    with child.log.open("ab") as log:
        child.process = await asyncio.create_subprocess_exec(
            *_bound_to_us(),
            *child.command.arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Its own group: Ctrl-C in the terminal is for us alone, so that we can drain in order.
            start_new_session=True,
            env=child_environment(OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1"),
        )


def _bound_to_us() -> tuple[str, ...]:
    # A parent that is killed -9 cannot stop its children; the kernel then does. Through setpriv,
    # because a preexec_fn would fork this process under gRPC's threads.
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "TERM") if setpriv else ()


async def _keep_running(child: Child) -> None:
    while child.process is not None:
        child.last_exit = await child.process.wait()
        child.restarts += 1
        await asyncio.sleep(RESTART_AFTER_S)
        await _spawn(child)


async def _terminate(child: Child) -> None:
    process = child.process
    if process is None or process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_WITHIN_S)
    except TimeoutError:
        process.kill()
        await process.wait()
