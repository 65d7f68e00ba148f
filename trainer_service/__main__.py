"""The trainer service's process: settings, then the server, until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chassis.errors import HeadraceError, InvalidArgument
from chassis.protection import protection_of
from chassis.server import RpcServer, run, serve_until_stopped
from chassis.settings import ProcessSettings, arm_failpoints, config_file
from chassis.telemetry import REGISTRY, configure_logs, logger, serve_metrics
from trainer_service.metrics import RunCollector
from trainer_service.runs import Runs
from trainer_service.servicer import SERVICE, TrainerServicer
from trainer_service.settings import TrainerSettings

log = logger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the service; returns the process's exit code."""
    arguments = _parser().parse_args(argv)
    try:
        arm_failpoints()
        file = config_file(arguments.config)
        settings = TrainerSettings.load(file, _overrides(arguments.set))
        configure_logs("trainer", ProcessSettings.load(file))
    except HeadraceError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 2
    return run(serve(settings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer_service",
        description="Runs training as torchrun jobs. Settings: trainer_service/settings.py.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML settings file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a trainer setting"
    )
    return parser


def _overrides(pairs: Sequence[str]) -> dict[str, Any]:
    overrides = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise InvalidArgument("BAD_SETTING", f"--set {pair!r}: expected key=value")
        overrides[key] = value
    return overrides


async def serve(settings: TrainerSettings) -> None:
    """Runs the service until SIGTERM or SIGINT. Raises HeadraceError where it cannot start."""
    try:
        async with asyncio.TaskGroup() as tasks:
            await _serve(settings, tasks)
    except BaseExceptionGroup as group:
        refused = group.subgroup(HeadraceError)
        raise group if refused is None else refused.exceptions[0]  # noqa: B904


async def _serve(settings: TrainerSettings, tasks: asyncio.TaskGroup) -> None:
    if settings.signing_key is not None:
        from model_store.signing import load_signing_key

        # A key that is no good is told now, not by the first run that fails.
        load_signing_key(settings.signing_key)
    runs = Runs(settings, tasks, directory=Path.cwd())
    # Runs are known before the port is, so that no request finds them missing; jobs start after,
    # so that a port that is taken costs none.
    await runs.load()
    server = RpcServer(settings.host, settings.port, protection=protection_of(settings))
    server.add_service(SERVICE, TrainerServicer(runs))
    ports = {"port": await server.start()}
    if settings.metrics_port >= 0:
        REGISTRY.register(RunCollector(runs.records))
        ports["metrics_port"] = serve_metrics(settings.host, settings.metrics_port)
    runs.go_on()
    await server.set_ready(True)
    log.info("serving", host=settings.host, **ports)
    await serve_until_stopped(server, drain=runs.close, grace_s=settings.drain_s)


if __name__ == "__main__":
    sys.exit(main())
