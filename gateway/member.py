"""One member of the fleet: an endpoint, its health, and what it says it serves.

Its task asks the endpoint whenever the health policy says so. The order matters where something
goes wrong: health first, then the fleet's review (no new batch goes there), then the batches in
flight end, so that none of them is sent to the same place again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import grpc

from chassis.errors import InvalidArgument
from chassis.telemetry import logger
from chassis.tensors import Signature
from gateway import metrics
from gateway.endpoint import Endpoint, Link
from gateway.policy.health import EndpointHealth, State
from gateway.policy.rollout import Holding
from gateway.probe import Sighting, describe, look

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Checks:
    """Seconds between two checks of a healthy endpoint, and how long each call of one may take."""

    interval_s: float
    timeout_s: float


class Member:
    """Watches one endpoint; implements `endpoint.Observer`."""

    def __init__(
        self,
        address: str,
        checks: Checks,
        *,
        link: Link,
        known: Callable[[], Collection[str]],
        review: Callable[[], None],
        checked: Callable[[Member], None],
    ) -> None:
        self.address = address
        self.health = EndpointHealth(interval_s=checks.interval_s, now=time.monotonic())
        self.endpoint = Endpoint(address, self, link)
        # False once discovery no longer names it.
        self.listed = True
        self.looked = asyncio.Event()
        # How long the way there and back took last.
        self.way_s = 0.0
        self.models: dict[str, Holding] = {}
        # By model; of the channel, where it tells.
        self.revisions: dict[str, int] = {}
        # Those that balance was told.
        self.noted: dict[str, int] = {}
        self.signatures: dict[str, Signature] = {}
        # Models that it is not used for, whatever it says of them.
        self.withheld: frozenset[str] = frozenset()
        # What balance was told last.
        self.serves: dict[str, frozenset[int]] = {}
        self._checks = checks
        self._known = known
        self._review = review
        self._checked = checked
        # A check begun before something changed must not speak after one begun later.
        self._checking = asyncio.Lock()
        self._state = State.UNKNOWN
        self._leaving = False

    async def watch(self) -> None:
        """Checks the endpoint until it leaves, then closes it."""
        try:
            while not self._leaving:
                now = time.monotonic()
                await asyncio.sleep(max(0.0, (self.health.next_wakeup() or now) - now))
                if self.health.take_check(time.monotonic()):
                    await self._check()
                    self.looked.set()
        finally:
            await self.endpoint.close()

    def leave(self) -> None:
        """The watch ends before its next check."""
        self._leaving = True

    def on_heard(self) -> None:
        """As `Observer.on_heard`."""
        self.health.on_heard(now=time.monotonic())

    def on_unavailable(self, reason: str) -> None:
        """As `Observer.on_unavailable`."""
        self.health.on_broken(reason, now=time.monotonic())
        self.changed()

    def on_broken(self, reason: str) -> None:
        """As `Observer.on_broken`."""
        self.health.on_broken(reason, now=time.monotonic())
        self.changed()
        self.endpoint.break_off()

    def changed(self) -> None:
        """Something about it may have changed."""
        state = self.health.state
        if state is not self._state:
            self._show(state)
        self._review()

    def claims(self) -> dict[str, Signature]:
        """What it says of the models ready on it, and is used for."""
        return {
            model: self.signatures[model]
            for model in self.models
            if model in self.signatures and model not in self.withheld
        }

    async def refresh(self) -> None:
        """Asks the endpoint now: something was changed there."""
        await self._check()

    async def _check(self) -> None:
        async with self._checking:
            await self._ask()

    async def _ask(self) -> None:
        started_at = time.monotonic()
        try:
            sighting = await look(self.endpoint.stub, self._known(), self._checks.timeout_s)
            await self._learn(sighting)
        except grpc.RpcError as error:
            self._on_check_failed(error, started_at)
            return
        self.health.on_check_passed(
            ready=sighting.ready, started_at=started_at, now=time.monotonic()
        )
        self.way_s = sighting.way_s
        if sighting.ready:
            self.models, self.revisions = sighting.models, sighting.revisions
        if self.health.state is State.HEALTHY:
            self._checked(self)
        self.changed()

    def _on_check_failed(self, error: grpc.RpcError, started_at: float) -> None:
        code = error.code()
        self.health.on_check_failed(
            f"health check: {code.name}",
            silent=code is grpc.StatusCode.DEADLINE_EXCEEDED,
            started_at=started_at,
            now=time.monotonic(),
        )
        self.changed()
        if self.health.state is State.EJECTED:
            self.endpoint.break_off()

    async def _learn(self, sighting: Sighting) -> None:
        """Describes the models that are new, whose versions changed, or that come back."""
        returning = self.health.state is not State.HEALTHY
        for model, holding in sighting.models.items():
            before = self.models.get(model)
            same = before is not None and before.versions == holding.versions
            seen = model in self.signatures and same
            if returning or not seen:
                await self._describe(model)

    async def _describe(self, model: str) -> None:
        try:
            signature = await describe(self.endpoint.stub, model, self._checks.timeout_s)
        except InvalidArgument as error:
            log.warning(
                "model description unusable",
                endpoint=self.address,
                model=model,
                error=error.message,
            )
        except grpc.RpcError as error:
            # Gone again since the index was read.
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        else:
            self.signatures[model] = signature
            return
        self.signatures.pop(model, None)

    def _show(self, state: State) -> None:
        snapshot = self.health.snapshot()
        reason = snapshot.error if state is State.EJECTED else ""
        tell = log.warning if state is State.EJECTED else log.info
        tell("endpoint", address=self.address, state=state.value, error=reason)
        self._state = state
        for each in State:
            metrics.ENDPOINT_STATE.labels(self.address, each.value).set(each is state)
