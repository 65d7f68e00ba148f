"""Clients that do not take no for an answer: what they do about requests that are lost or late."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.simulate.request import Request
from benchmarks.simulate.world import Gateway, World


class Retries:
    """Clients that ask again, `most` times: after a loss, or once an answer is overdue.

    They wait as long as the refusal tells, or `backoff_s` doubled each time, give or take a half.
    """

    def __init__(
        self, world: World, gateway: Gateway, *, most: int = 3, backoff_s: float = 0.01
    ) -> None:
        self.tried: list[Request] = []
        self._world = world
        self._gateway = gateway
        self._most = most
        self._backoff_s = backoff_s
        self._draw = world.draw("clients")

    def watch(self, request: Request) -> None:
        """As `Clients.watch`."""
        again = _once(self._again, request)
        request.on_lost = lambda _: again()
        self._world.clock.at(request.due_at, lambda: None if request.in_time else again())

    def _again(self, request: Request) -> None:
        if request.tries >= self._most:
            return
        told_s = request.retry_after_s or self._backoff_s * 2**request.tries
        wait_s = told_s * self._draw.uniform(0.5, 1.5)
        self._world.clock.at(self._world.clock.now + wait_s, lambda: self._offer(request))

    def _offer(self, before: Request) -> None:
        now = self._world.clock.now
        request = Request(
            before.key,
            now,
            now + before.due_at - before.arrived_at,
            rows=before.rows,
            priority=before.priority,
            tenant=before.tenant,
            tries=before.tries + 1,
        )
        self.tried.append(request)
        self.watch(request)
        self._gateway.offer(request)


def _once(act: Callable[[Request], None], request: Request) -> Callable[[], None]:
    """Acts on the request at the first call only: what is lost is overdue later."""
    calls = iter([act])

    def call() -> None:
        for first in calls:
            first(request)

    return call
