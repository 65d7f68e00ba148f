"""The processes of one job as the service sees them: started, spoken to, and certainly gone.

Decides that a job is a session of its own, so that one signal reaches all of it, and that it is
gone only when the agent has ended and every process of its session with it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import IO

from chassis.settings import child_environment
from chassis.telemetry import logger
from trainer_service.report import JobReport

log = logger(__name__)

_LINE_BYTES = 1 << 20


class JobProcess:
    """Starts the job of the run in `folder`; modules are imported from `directory`.

    Call it in the process's main thread: the kernel ends the agent with the thread that started
    it. Its reports must be read to their end. Raises OSError where it cannot be started.
    """

    def __init__(
        self,
        folder: Path,
        output: IO[bytes],
        *,
        directory: Path,
        processes: int,
        threads: int,
        signing_key: Path | None,
    ) -> None:
        self.finishing = False
        """Whether it was asked to end."""
        # Not asyncio's: uvloop forks, and gRPC's fork handlers would stop its own threads for it.
        # This one is done in a millisecond.
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "trainer_service.job"),
                *(str(folder), str(os.getpid()), str(processes)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            cwd=directory,
            env=_environment(directory, processes, threads, signing_key),
            start_new_session=True,
        )
        self._gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._reap, args=(loop,), daemon=True).start()

    def send(self, command: str) -> None:
        """Passes a command on; a job that is going hears nothing."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            os.write(self._process.stdin.fileno(), command.encode() + b"\n")

    def finish(self, *, within_s: float) -> None:
        """Asks for a last checkpoint and the end; kills what has not ended `within_s` from now."""
        if not self.finishing:
            self.finishing = True
            self.send("finish")
            asyncio.get_running_loop().call_later(within_s, self.kill)

    def kill(self) -> None:
        """SIGKILL to every process of the job, if it is not gone."""
        if not self._gone.is_set():
            self._kill_session()

    async def reports(self) -> AsyncGenerator[JobReport, None]:
        """What the job tells, until all its processes are gone; ends a job that is left early."""
        assert self._process.stdout is not None and self._process.stdin is not None
        reader = asyncio.StreamReader(limit=_LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._process.stdout
        )
        try:
            async for line in reader:
                try:
                    yield JobReport.from_line(line)
                except (ValueError, TypeError, KeyError) as error:
                    log.warning("a job's report cannot be read", why=repr(error))
        finally:
            self.kill()
            transport.close()
            await self._gone.wait()
            self._process.stdin.close()

    def exit_code(self) -> int:
        """The agent's, once `reports` has ended; negative is the signal that ended it."""
        return self._process.returncode

    def _reap(self, loop: asyncio.AbstractEventLoop) -> None:
        self._process.wait()
        # Workers that outlive a killed agent would hold the pipe, and the reading with it, open.
        self._kill_session()
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._gone.set)

    def _kill_session(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _environment(
    directory: Path, processes: int, threads: int, signing_key: Path | None
) -> dict[str, str]:
    own = child_environment()
    path = [str(directory), *filter(None, [own.get("PYTHONPATH", "")])]
    changes = {"PYTHONPATH": os.pathsep.join(path)}
    if threads or (processes > 1 and "OMP_NUM_THREADS" not in own):
        # torchrun's default: processes of one job do not fight for the same cores.
        changes["OMP_NUM_THREADS"] = str(threads or 1)
    if sys.platform == "linux" and "GLOO_SOCKET_IFNAME" not in own:
        # gloo would look the host's name up and may find an address that is not there.
        changes["GLOO_SOCKET_IFNAME"] = "lo"
    if signing_key is not None:
        # The service may have it from a file or a flag that the job does not read.
        changes["HEADRACE_TRAINER_SIGNING_KEY"] = str(signing_key.absolute())
    return own | changes
