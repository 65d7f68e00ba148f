"""Models of the whole fleet: loaded, unloaded and listed at every replica at once.

A change goes to all healthy replicas. If any of them did it, it stands until this process ends: a
replica that joins or returns is told, before it is used for that model, whenever its health is
checked. Other gateways know nothing of it; what is to outlast them belongs into the store's
channels and the replicas' settings.

Belongs to the running loop. Changes of one model take turns; one whose caller went away goes on.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from chassis.errors import (
    DeadlineExceeded,
    HeadraceError,
    NotFound,
    Unavailable,
)
from chassis.repository import Load
from chassis.telemetry import logger
from gateway.catalog import Catalog
from gateway.fleet import Fleet
from gateway.index import READY, Entry, fleet_index
from gateway.member import Member
from gateway.policy.directives import Directive, Directives
from gateway.policy.health import State
from gateway.replica_models import listed, tell

log = logger(__name__)

# What waits for a model that is unloaded gets this long to leave; the rest finds it gone.
QUEUE_S = 5.0
LOOK_S = 0.01


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: of a load at a replica, and of a look at its index."""

    load_s: float
    index_s: float


class Repository:
    """`waiting` tells how many requests of a model wait in the gateway."""

    def __init__(
        self,
        fleet: Fleet,
        catalog: Catalog,
        timeouts: Timeouts,
        *,
        waiting: Callable[[str], int],
    ) -> None:
        self._fleet = fleet
        self._catalog = catalog
        self._timeouts = timeouts
        self._waiting = waiting
        self._directives = Directives()
        self._numbers = itertools.count(1)
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        # As which process an endpoint was last told: it is another one after each ejection.
        self._joined: dict[str, tuple[Member, int]] = {}
        self._listing: asyncio.Task[list[Entry]] | None = None

    async def index(self) -> list[Entry]:
        """Every model of the fleet; callers at the same time share one look at the replicas."""
        if self._listing is None or self._listing.done():
            self._listing = self._own(self._list())
        return await asyncio.shield(self._listing)

    def ready_index(self) -> list[Entry]:
        """The versions that would be answered now, from what the gateway knows."""
        return [
            Entry(name, version, READY)
            for name in self._catalog.names()
            if self._fleet.serves(name)
            for version in [str(number) for number in self._fleet.versions(name)] or [""]
        ]

    async def load(self, load: Load, remaining_s: float | None) -> None:
        """Makes every healthy replica serve the model; returns once all do.

        Raises what a replica refused with, and the count where others did it; Unavailable
        (NO_READY_REPLICA), DeadlineExceeded.
        """
        directive = Directive(next(self._numbers), load.model, True, load.version, load.channel)
        await self._see_through(self._load(directive), remaining_s)

    async def unload(self, model: str, remaining_s: float | None) -> None:
        """Takes no more requests for the model and makes every healthy replica let go of it.

        Raises NotFound (MODEL_NOT_FOUND) and as `load` does.
        """
        known = self._catalog.get(model) is not None or model in self._directives.unloaded()
        if not known and not self._named(model):
            raise NotFound(
                "MODEL_NOT_FOUND",
                f"model {model[:64]!r} is not served by any replica",
                field="model_name",
            )
        directive = Directive(next(self._numbers), model, False)
        await self._see_through(self._unload(directive), remaining_s)

    def on_checked(self, member: Member) -> None:
        """A healthy member answered a check: tells it what it does not know yet."""
        address = member.address
        process = (member, member.health.snapshot().ejections)
        if self._joined.get(address) != process:
            self._joined[address] = process
            self._directives.on_joined(address)
        for directive in self._directives.take_due(address, now=time.monotonic()):
            self._own(self._catch_up(member, directive))
        member.withheld = self._directives.withheld(address)

    def on_left(self, address: str) -> None:
        """A member is gone for good."""
        self._joined.pop(address, None)
        self._directives.on_left(address)

    async def close(self) -> None:
        """Gives up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _named(self, model: str) -> bool:
        return any(model in member.models for member in self._fleet.members())

    def _healthy(self) -> list[Member]:
        members = [m for m in self._fleet.members() if m.health.state is State.HEALTHY]
        if not members:
            raise Unavailable("NO_READY_REPLICA", "no replica is ready")
        return members

    async def _list(self) -> list[Entry]:
        members = self._healthy()
        entries = await asyncio.gather(*(self._entries(member) for member in members))
        return fleet_index(entries, self._directives.unloaded())

    async def _entries(self, member: Member) -> list[Entry]:
        try:
            return await listed(member.endpoint.stub, self._timeouts.index_s)
        except grpc.RpcError:
            # It lists nothing, or not now: what it serves is known all the same.
            return [
                Entry(model, version, READY)
                for model, holding in member.models.items()
                for version in [str(number) for number in sorted(holding.versions)] or [""]
            ]

    async def _load(self, directive: Directive) -> None:
        async with self._locks.setdefault(directive.model, asyncio.Lock()):
            await self._give(directive)

    async def _unload(self, directive: Directive) -> None:
        model = directive.model
        async with self._locks.setdefault(model, asyncio.Lock()):
            members = self._healthy()
            self._catalog.withdraw(model)
            try:
                await self._wait_queue_empty(model)
                await self._give(directive)
            finally:
                if model not in self._directives.unloaded():
                    self._catalog.restore(model)
        log.info("model unloaded", model=model, replicas=len(members))

    async def _wait_queue_empty(self, model: str) -> None:
        for _ in range(round(QUEUE_S / LOOK_S)):
            if not self._waiting(model):
                return
            await asyncio.sleep(LOOK_S)

    async def _give(self, directive: Directive) -> None:
        """Tells all healthy members; what one of them did stands."""
        members = self._healthy()
        failures = await asyncio.gather(
            *(tell(m.endpoint.stub, directive, self._timeouts.load_s) for m in members)
        )
        if all(failures):
            raise _together(directive, failures)
        self._directives.on_given(directive)
        for member, failure in zip(members, failures, strict=True):
            self._note(member, directive, failure)
        if directive.loaded:
            self._catalog.restore(directive.model)
        # What they serve now is told at once: the caller's next request must find it.
        await asyncio.gather(*(member.refresh() for member in members))
        log.info("models changed", model=directive.model, loaded=directive.loaded)
        if any(failures):
            raise _together(directive, failures)

    async def _catch_up(self, member: Member, directive: Directive) -> None:
        failure = await tell(member.endpoint.stub, directive, self._timeouts.load_s)
        self._note(member, directive, failure)
        if failure is None:
            await member.refresh()
        else:
            log.warning(
                "endpoint does not follow",
                endpoint=member.address,
                model=directive.model,
                reason=failure.reason,
                message=failure.message,
            )
            member.changed()

    def _note(self, member: Member, directive: Directive, failure: HeadraceError | None) -> None:
        if failure is None:
            self._directives.on_applied(member.address, directive)
        else:
            self._directives.on_failed(member.address, directive, now=time.monotonic())
        member.withheld = self._directives.withheld(member.address)

    def _own(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_ended)
        return task

    def _on_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # Looked at even where the caller is gone; a defect must not pass in silence.
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, HeadraceError):
            log.error("change of models failed", exc_info=error)

    async def _see_through(self, change: Coroutine[Any, Any, None], wait_s: float | None) -> None:
        task = self._own(change)
        try:
            async with asyncio.timeout(wait_s):
                await asyncio.shield(task)
        except TimeoutError:
            raise DeadlineExceeded(
                "DEADLINE_EXCEEDED", "the deadline passed first; the change goes on"
            ) from None


def _together(directive: Directive, failures: Sequence[HeadraceError | None]) -> HeadraceError:
    """One error for several replicas: the first one's, and how many did what."""
    failed = [failure for failure in failures if failure is not None]
    first = failed[0]
    if len(failures) == 1:
        return first
    done = "loaded" if directive.loaded else "unloaded"
    return type(first)(
        first.reason,
        f"{len(failures) - len(failed)} of {len(failures)} replicas {done} model "
        f"{directive.model!r}, {len(failed)} did not: {first.message}",
        field=first.field,
    )
