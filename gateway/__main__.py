"""`python -m gateway`: one gateway process."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from chassis.errors import HeadraceError, InvalidArgument
from chassis.server import run
from chassis.settings import ProcessSettings, arm_failpoints, config_file
from chassis.telemetry import configure_logs
from gateway.assembly import Gateway
from gateway.settings import GatewaySettings


async def serve(settings: GatewaySettings) -> None:
    """Runs a gateway until SIGTERM or SIGINT. Raises HeadraceError where it cannot start."""
    await Gateway(settings).run()


def main(argv: Sequence[str] | None = None) -> int:
    """Reads settings and serves; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        file = config_file(arguments.config)
        arm_failpoints()
        process = ProcessSettings.load(file)
        settings = GatewaySettings.load(file, _overrides(arguments.set))
    except HeadraceError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 2
    configure_logs("gateway", process)
    return run(serve(settings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gateway", description=__doc__)
    parser.add_argument("--config", type=Path, help="YAML settings file (section: gateway)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting, such as endpoints=127.0.0.1:8011,127.0.0.1:8012; repeatable",
    )
    return parser


def _overrides(pairs: Sequence[str]) -> Mapping[str, str]:
    overrides = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise InvalidArgument("BAD_SETTING", f"--set {pair}: expected KEY=VALUE")
        overrides[key] = value
    return overrides


if __name__ == "__main__":
    sys.exit(main())
