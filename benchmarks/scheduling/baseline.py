"""A gateway that schedules as others do: `python -m benchmarks.scheduling.baseline`.

    timer    a batch leaves when it is full or its first request has waited `--delay-ms`; first in,
             first out; the least loaded endpoint; nothing is dropped or refused
    natural  a batch leaves as soon as an endpoint is free; what has expired is dropped

All else is the gateway itself: same ingress, same streams, same retries.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence

from chassis.server import run
from chassis.settings import ProcessSettings
from chassis.telemetry import configure_logs
from gateway.assembly import Gateway
from gateway.policy.balance import Balance
from gateway.policy.lane import INFINITY, QueueKey
from gateway.policy.pacing import Fleet
from gateway.policy.schedule import Order, Queues, Schedule, Tuning
from gateway.policy.speed import Speeds
from gateway.settings import GatewaySettings

MILLISECONDS = 1000


class Natural(Schedule):
    """Whatever waits goes to the least loaded endpoint with room; nothing is learned."""

    def __init__(self, queues: Queues, balance: Balance, tuning: Tuning) -> None:
        super().__init__(queues, balance, _Unlearned(), tuning)
        self._waiting = queues
        self._seats = balance
        self._delay_s = tuning.delay_s
        self._due_at = INFINITY

    def next(self, now: float) -> Order | None:
        """The next batch that is full, old enough, or both where there is no delay."""
        self._due_at = INFINITY
        for key in self._waiting.waiting():
            outline = None if key.alone else self._waiting.outline(key)
            if outline is None:
                continue
            due_at = outline.oldest_at + self._delay_s
            if outline.rows < max(key.max_rows, 1) and now < due_at:
                self._due_at = min(self._due_at, due_at)
                continue
            address = self._seats.pick(key.model, key.version)
            if address is not None:
                return Order(key, address, key.max_rows, "free")
        return None

    def next_wakeup(self) -> float | None:
        """As `Schedule.next_wakeup`."""
        return None if self._due_at == INFINITY else self._due_at

    def pick(self, model: str, version: int, avoid: Collection[str], now: float) -> str | None:
        """The least loaded endpoint."""
        return self._seats.pick(model, version, avoid)

    def probe(self, key: QueueKey, now: float) -> str | None:
        """None: nobody is known to be slow."""
        return None


class _Unlearned(Speeds):
    """Knows nothing of anybody, whatever they answer: so no request is refused for being late."""

    def fleet(self, model: str, addresses: Collection[str], now: float) -> Fleet:
        return Fleet()

    def overdue_at(self, flight_id: int) -> float:
        return INFINITY


class BaselineGateway(Gateway):
    """The gateway with another schedule."""

    def make_schedule(self, queues: Queues, balance: Balance, tuning: Tuning) -> Schedule:
        """As `Gateway.make_schedule`."""
        return Natural(queues, balance, tuning)


async def serve(settings: GatewaySettings) -> None:
    """Runs until SIGTERM."""
    await BaselineGateway(settings).run()


def main(argv: Sequence[str] | None = None) -> int:
    """Takes settings as `python -m gateway` does."""
    parser = argparse.ArgumentParser(description="A gateway with a baseline's schedule.")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    pairs = dict(pair.split("=", 1) for pair in parser.parse_args(argv).set)
    configure_logs("gateway", ProcessSettings.load(None))
    return run(serve(GatewaySettings.load(None, pairs)))


if __name__ == "__main__":
    sys.exit(main())
