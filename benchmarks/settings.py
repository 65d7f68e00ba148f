"""What a run of the serving benchmark is asked for, and the points that follow from it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MODELS = {"mlp": "examples.mlp:Mlp", "encoder": "examples.encoder:Encoder"}
# One batch runs while the next arrives.
OUTSTANDING_BATCHES = 2
PURPOSE = "Measures how fast the stack serves, and what a request costs, beside a bare torch loop."


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line asks for."""

    models: tuple[str, ...]
    replicas: int
    threads: int
    seconds: float
    outstanding: tuple[int, ...]
    # (service, key, value) of each setting of a service that differs from its default.
    changes: tuple[tuple[str, str, str], ...]

    def of_service(self, name: str) -> dict[str, str]:
        """Settings of the gateway or of every replica that differ from the defaults."""
        return {key: value for service, key, value in self.changes if service == name}

    @property
    def steps(self) -> int:
        """Things to wait for, for the progress bar: bare loop, start and loads of each model."""
        return len(self.models) * (2 + len(list(self.loads(64))))

    def loads(self, max_batch_size: int) -> Iterator[tuple[str, int, int]]:
        """(through whom, rows a request, outstanding) of every point."""
        for outstanding in self.outstanding:
            yield "gateway", 1, outstanding
        for outstanding in sorted({self.outstanding[0], self.outstanding[-1]}):
            yield "replica", 1, outstanding
        yield "replica", max_batch_size, OUTSTANDING_BATCHES


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings behind parsed options."""
    return Settings(
        models=tuple(MODELS) if options.model == "all" else (options.model,),
        replicas=options.replicas,
        threads=options.threads,
        seconds=options.seconds,
        outstanding=options.outstanding,
        changes=tuple(options.changes),
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="benchmarks.serving", description=PURPOSE)
    found.add_argument("--model", choices=(*MODELS, "all"), default="all")
    found.add_argument("--replicas", type=_positive, default=1)
    found.add_argument(
        "--threads", type=_positive, default=1, help="of a replica, of the bare loop"
    )
    found.add_argument("--seconds", type=float, default=6.0, help="per point (6)")
    found.add_argument(
        "--outstanding",
        type=lambda text: tuple(map(_positive, text.split(","))),
        default=(1, 8, 32, 64, 128),
        help="requests, a point each (1,8,32,64,128)",
    )
    found.add_argument(
        "--set",
        dest="changes",
        metavar="SERVICE.KEY=VALUE",
        type=_change,
        action="append",
        default=[],
        help="a setting of gateway or replica, such as gateway.max_queue_delay_ms=2; repeatable",
    )
    found.add_argument("--json", type=Path, default=Path("bench-results/serving.json"))
    return found


def _change(text: str) -> tuple[str, str, str]:
    service, dot, rest = text.partition(".")
    key, equals, value = rest.partition("=")
    if not dot or not equals or service not in ("gateway", "replica"):
        raise argparse.ArgumentTypeError(f"expected SERVICE.KEY=VALUE, got {text}")
    return service, key, value


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return number
