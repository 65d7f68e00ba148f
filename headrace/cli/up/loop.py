"""The order of a loop: check, start, train, wait until ready, send, show, drain, sum up."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.live import Live

from chassis.edge import error_from_rpc
from chassis.errors import Unavailable
from headrace.cli.output import Format, print_json, print_record
from headrace.cli.up.children import Children
from headrace.cli.up.plan import HOST, Plan, commands
from headrace.cli.up.summary import summary
from headrace.cli.up.traffic import Tally, Traffic
from headrace.cli.up.view import render
from headrace.cli.up.watch import Watch
from headrace.client import AsyncClient
from headrace.model import Model, load_model
from model_store import open_store
from protos.headrace.v1 import trainer_pb2

RUN_ID = "up"
READY_WITHIN_S = 120.0
TRAINER_WITHIN_S = 60.0
FRAME_S = 0.25
LOOK_S = 0.1
FAILURES_TO_GIVE_UP = 3


def run_loop(plan: Plan) -> int:
    """Runs the loop; returns the exit code. Raises HeadraceError where it cannot start."""
    sys.path.insert(0, str(Path.cwd()))
    model = load_model(plan.model)
    _ = model.signature
    if plan.given_store:
        open_store(plan.given_store).close()
    with _directory(plan) as directory:
        return asyncio.run(_Loop(plan.with_ports(), model, directory).run())


@contextmanager
def _directory(plan: Plan) -> Iterator[Path]:
    if plan.directory is not None:
        plan.directory.mkdir(parents=True, exist_ok=True)
        yield plan.directory.absolute()
        return
    made = Path(tempfile.mkdtemp(prefix="headrace-up-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@dataclass(slots=True)
class _Loop:
    plan: Plan
    model: Model
    directory: Path

    async def run(self) -> int:
        stop = _stop_event()
        children = Children(self.directory)
        watch = Watch(self.plan, RUN_ID)
        tally = Tally()
        client = AsyncClient(f"{HOST}:{self.plan.port}")
        seconds = 0.0
        try:
            await children.start(commands(self.plan, self.model.name, self.directory))
            if await _unless_stopped(self._ready(children, watch, client), stop):
                self._say(f"sending requests to {HOST}:{self.plan.port}")
                seconds = await self._traffic(client, watch, tally, stop)
                await self._stop_run(watch)
                await watch.poll()
        finally:
            await client.close()
            await watch.close()
            await children.stop()
        self._report(tally, watch, seconds, children.restarts)
        return 1 if tally.failed else 0

    async def _ready(self, children: Children, watch: Watch, client: AsyncClient) -> None:
        self._say("starting the store, the trainer, the replicas and the gateway")
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                # Replicas first: then the very first version is served, and what is learned shows.
                while not watch.all_replicas_answer:
                    await self._look(children, watch)
                self._say("starting the training run")
                await self._start_run(watch)
                while not await client.ready(self.model.name):
                    await self._look(children, watch)
        except TimeoutError:
            text = f"the loop was not ready after {READY_WITHIN_S:.0f} s{_tails(children)}"
            raise Unavailable("NOT_READY", text) from None

    async def _look(self, children: Children, watch: Watch) -> None:
        await watch.poll()
        self._check_start(children, watch)
        await asyncio.sleep(LOOK_S)

    def _check_start(self, children: Children, watch: Watch) -> None:
        run = watch.seen.run
        if run is not None and run.state == trainer_pb2.RUN_STATE_FAILED:
            raise Unavailable("RUN_FAILED", f"training failed: {run.error}")
        for child in children.members:
            if child.restarts >= FAILURES_TO_GIVE_UP:
                raise Unavailable(
                    "SERVICE_FAILED",
                    f"{child.command.name} does not start (exit code {child.last_exit})"
                    + _tail(child.log),
                )

    async def _start_run(self, watch: Watch) -> None:
        spec = trainer_pb2.RunSpec(
            model=self.plan.model,
            store=self.plan.store_url(self.directory),
            max_steps_per_s=self.plan.steps_per_s,
            publish=trainer_pb2.PublishPolicy(every_s=self.plan.publish_every_s),
        )
        request = trainer_pb2.StartRunRequest(run_id=RUN_ID, spec=spec)
        try:
            started = await watch.trainer_call("StartRun", request, TRAINER_WITHIN_S)
            if started.run.state not in (
                trainer_pb2.RUN_STATE_STARTING,
                trainer_pb2.RUN_STATE_RUNNING,
            ):
                resume = trainer_pb2.ResumeRunRequest(run_id=RUN_ID)
                await watch.trainer_call("ResumeRun", resume, TRAINER_WITHIN_S)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from None

    async def _traffic(
        self, client: AsyncClient, watch: Watch, tally: Tally, stop: asyncio.Event
    ) -> float:
        loop = asyncio.get_running_loop()
        traffic = Traffic(client, self.model, self.plan.rate, tally)
        started_at = loop.time()
        tasks = [asyncio.create_task(traffic.run()), asyncio.create_task(watch.run())]
        with self._live() as live:
            while not stop.is_set():
                elapsed_s = loop.time() - started_at
                if self.plan.seconds and elapsed_s >= self.plan.seconds:
                    break
                if live is not None:
                    frame = render(
                        self.plan, watch.seen, tally, now=loop.time(), elapsed_s=elapsed_s
                    )
                    live.update(frame, refresh=True)
                await _wait(stop, FRAME_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await traffic.drain()
        return loop.time() - started_at

    async def _stop_run(self, watch: Watch) -> None:
        self._say("draining")
        try:
            request = trainer_pb2.StopRunRequest(run_id=RUN_ID)
            await watch.trainer_call("StopRun", request, 20.0)
        except grpc.RpcError as error:
            self._say(f"the run could not be stopped: {error_from_rpc(error).message}")

    @contextmanager
    def _live(self) -> Iterator[Live | None]:
        if self.plan.json_summary:
            yield None
            return
        console = Console()
        with Live(console=console, auto_refresh=False, screen=False) as live:
            yield live

    def _say(self, text: str) -> None:
        sys.stderr.write(text + "\n")

    def _report(self, tally: Tally, watch: Watch, seconds: float, restarts: int) -> None:
        record = summary(tally, watch.seen, seconds=seconds, restarts=restarts)
        record |= {"store": self.plan.store, "replicas": self.plan.replicas}
        if self.plan.json_summary:
            print_json(record)
        else:
            print_record(record, Format.TABLE)


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _wait(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return False
    return True


async def _unless_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> bool:
    """Runs `work` to its end and returns True, or cancels it at a stop and returns False."""
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return False
    task.result()
    return True


def _tails(children: Children) -> str:
    return "".join(_tail(child.log) for child in children.members)


def _tail(log: Path, lines: int = 3) -> str:
    text = log.read_text(errors="replace").strip().splitlines()[-lines:]
    return f"\n{log.name}:\n  " + "\n  ".join(text) if text else ""
