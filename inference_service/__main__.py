"""`python -m inference_service`: one replica process."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from chassis.errors import HeadraceError, InvalidArgument
from chassis.server import run, serve_until_stopped
from chassis.settings import ProcessSettings, arm_failpoints, config_file
from chassis.telemetry import configure_logs, logger, serve_metrics
from inference_service.replica import Replica
from inference_service.settings import ReplicaSettings
from model_store import open_store

log = logger(__name__)

# What `drain` did not finish is cut off soon: open health watches would else hold the server.
LAST_GRACE_S = 0.5


async def serve(settings: ReplicaSettings) -> None:
    """Runs a replica until SIGTERM or SIGINT. Raises HeadraceError where it cannot start."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    # torch alone brings 200,000 objects: walking them stops every thread for a tenth of a second.
    gc.collect()
    gc.freeze()
    store = open_store(settings.store)
    replica = Replica(settings, store)
    port = await replica.start()
    metrics_port = None
    if settings.metrics_port >= 0:
        metrics_port = serve_metrics(settings.host, settings.metrics_port)
    log.info(
        "serving",
        port=port,
        http_port=replica.http.port if settings.http_port >= 0 else None,
        metrics_port=metrics_port,
        store=store.url,
        models=list(settings.models),
        device=settings.device,
    )
    try:
        await serve_until_stopped(replica.server, drain=replica.drain, grace_s=LAST_GRACE_S)
    finally:
        await replica.release()


def main(argv: Sequence[str] | None = None) -> int:
    """Reads settings and serves; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        file = config_file(arguments.config)
        arm_failpoints()
        process = ProcessSettings.load(file)
        settings = ReplicaSettings.load(file, _overrides(arguments.set))
    except HeadraceError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 2
    configure_logs("replica", process)
    return run(serve(settings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m inference_service", description=__doc__)
    parser.add_argument("--config", type=Path, help="YAML settings file (section: replica)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting, such as store=file:///var/lib/headrace; repeatable",
    )
    return parser


def _overrides(pairs: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise InvalidArgument("BAD_SETTING", f"--set {pair}: expected KEY=VALUE")
        found[key] = value
    return found


if __name__ == "__main__":
    sys.exit(main())
