"""All endpoints: who belongs, who serves what, and the way to each.

Discovery names members; each is watched by its own task. After every change `review` settles what
each model is and tells balance who serves it. A member that discovery no longer names stays while
it is healthy: a registry that lost its leases must not take down replicas that answer. One that
really goes says so itself (not ready) or stops answering.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Protocol

from chassis.errors import NotFound
from gateway.catalog import Catalog
from gateway.discovery import Directory
from gateway.dispatch.delivery import Listener, OnOutcome, lost
from gateway.endpoint import Link
from gateway.ingress.batch import Batch
from gateway.ingress.generation import Generation
from gateway.member import Checks, Member
from gateway.policy.balance import Balance
from gateway.policy.health import State
from gateway.policy.rollout import Rollouts

# Flips of one promotion are milliseconds apart.
LOOK_AGAIN_S = 0.005


class Attendant(Protocol):
    """Looks after members."""

    def on_checked(self, member: Member) -> None:
        """A healthy member passed a check; before it is decided what it is used for."""

    def on_left(self, address: str) -> None:
        """A member is gone."""


class Fleet:
    """Implements `dispatch.Carrier`; belongs to the running loop."""

    def __init__(
        self,
        catalog: Catalog,
        balance: Balance,
        generations: Balance,
        checks: Checks,
        *,
        link: Link,
        models: Collection[str] = (),
        rollouts: Rollouts | None = None,
        monotonic: bool = False,
    ) -> None:
        """With `monotonic`, balance is told at which revision of its channel each model serves."""
        self._catalog = catalog
        self._rollouts = rollouts or Rollouts()
        self._monotonic = monotonic
        self._balance = balance
        self._generations = generations
        self._checks = checks
        self._link = link
        self._models = frozenset(models)
        self._members: dict[str, Member] = {}
        self._listeners: list[Callable[[], None]] = []
        self._listed = asyncio.Event()
        self._attendants: list[Attendant] = []
        # Checks out of turn, kept from being collected.
        self._looks: set[asyncio.Future[None]] = set()

    def attend(self, attendant: Attendant) -> None:
        """`attendant` hears of every check that a healthy member passed, and of its leaving."""
        self._attendants.append(attendant)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """`listener` is called after every change of who serves what."""
        self._listeners.append(listener)

    @property
    def serving(self) -> bool:
        """Whether any endpoint takes batches of any model."""
        return any(member.serves for member in self._members.values())

    @property
    def heard(self) -> bool:
        """Whether any endpoint ever answered."""
        return any(member.health.heard for member in self._members.values())

    async def run(self, directory: Directory) -> None:
        """Follows the directory and watches every member; ends only by cancellation."""
        async with asyncio.TaskGroup() as tasks:
            async for addresses in directory.follow():
                self._set_listed(addresses, tasks)
                self._listed.set()

    async def wait_looked(self, timeout_s: float) -> None:
        """Returns once every member found at start was asked, or after `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._listed.wait()
                for member in list(self._members.values()):
                    await member.looked.wait()

    def send(
        self, address: str, delivery_id: int, batch: Batch, timeout_s: float, done: OnOutcome
    ) -> None:
        """As `Carrier.send`."""
        member = self._members.get(address)
        if member is None:
            asyncio.get_running_loop().call_soon(done, delivery_id, lost())
        else:
            member.endpoint.send(delivery_id, batch, timeout_s, done)

    def generate(
        self,
        address: str,
        delivery_id: int,
        generation: Generation,
        timeout_s: float,
        listener: Listener,
    ) -> None:
        """As `Carrier.generate`."""
        member = self._members.get(address)
        if member is None:
            asyncio.get_running_loop().call_soon(listener.on_outcome, delivery_id, lost())
        else:
            member.endpoint.generate(delivery_id, generation, timeout_s, listener)

    def abandon(self, address: str, delivery_id: int) -> None:
        """As `Carrier.abandon`: an endpoint that sits on a batch is treated as broken."""
        member = self._members.get(address)
        if member is not None and not member.endpoint.withdraw(delivery_id):
            member.on_broken(f"batch {delivery_id} was not answered in time")

    def members(self) -> list[Member]:
        """All members by address."""
        return [self._members[address] for address in sorted(self._members)]

    def member(self, address: str) -> Member:
        """One member. Raises NotFound (ENDPOINT_NOT_FOUND)."""
        member = self._members.get(address)
        if member is None:
            known = ", ".join(sorted(self._members)) or "none"
            raise NotFound(
                "ENDPOINT_NOT_FOUND",
                f"endpoint {address[:64]!r} is unknown; known endpoints: {known}",
                field="address",
            )
        return member

    def serves(self, model: str, version: int = 0) -> bool:
        """Whether an endpoint takes the model's batches, and holds the version unless it is 0."""
        return self._catalog.get(model) is not None and any(
            model in member.serves and (not version or version in member.serves[model])
            for member in self._members.values()
        )

    def versions(self, model: str) -> list[int]:
        """Versions of the model that endpoints say they hold, ascending."""
        return sorted({v for m in self._members.values() for v in m.serves.get(model, ())})

    def _set_listed(self, addresses: frozenset[str], tasks: asyncio.TaskGroup) -> None:
        for address, member in self._members.items():
            member.listed = address in addresses
        for address in sorted(addresses - self._members.keys()):
            member = self._members[address] = Member(
                address,
                self._checks,
                link=self._link,
                known=lambda: self._models.union(self._catalog.names()),
                review=self._review,
                checked=self._on_checked,
            )
            tasks.create_task(member.watch())
        self._review()

    def _on_checked(self, member: Member) -> None:
        for attendant in self._attendants:
            attendant.on_checked(member)

    def _review(self) -> None:
        self._catalog.settle(
            {
                member.address: member.claims()
                for member in self._members.values()
                if member.health.state is State.HEALTHY
            }
        )
        now = time.monotonic()
        changed = [self._place(member, now) for member in self._members.values()]
        self._let_go(now)
        if any(changed):
            for listener in self._listeners:
                listener()

    def _place(self, member: Member, now: float) -> bool:
        """Tells the policies what the member serves; whether that is news to balance."""
        holdings = {}
        if member.health.state is State.HEALTHY:
            holdings = {
                model: member.models[model]
                for model, claimed in member.claims().items()
                if self._catalog.agrees(model, claimed)
            }
        self._rollouts.on_endpoint(member.address, holdings)
        serves = {model: holding.versions for model, holding in holdings.items()}
        news = serves != member.serves
        if news:
            self._serve(member, serves, now)
        return (self._monotonic and self._note_revisions(member)) or news

    def _serve(self, member: Member, serves: dict[str, frozenset[int]], now: float) -> None:
        member.serves = serves
        # Balance forgets what it knew of a model that was away.
        member.noted = {model: at for model, at in member.noted.items() if model in serves}
        self._balance.on_endpoint(member.address, serves, now=now)
        decoupled = {
            model: versions
            for model, versions in serves.items()
            if member.signatures[model].decoupled
        }
        self._generations.on_endpoint(member.address, decoupled, now=now)

    def look_again(self, model: str) -> None:
        """An endpoint serves a newer revision: asks those behind now, and until they do too.

        For as long as their next check would be away; one that is later than that is loading.
        """
        task = asyncio.ensure_future(self._look_again(model))
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    async def _look_again(self, model: str) -> None:
        until = time.monotonic() + self._checks.interval_s
        while time.monotonic() < until:
            behind = [self._members.get(address) for address in self._balance.behind(model)]
            looked = [
                member.refresh()
                for member in behind
                if member is not None and member.health.state is State.HEALTHY
            ]
            if not looked:
                return
            await asyncio.gather(*looked)
            await asyncio.sleep(LOOK_AGAIN_S)

    def _note_revisions(self, member: Member) -> bool:
        """Whether it serves another revision of some model than it did."""
        served = {
            model: revision
            for model, revision in member.revisions.items()
            if model in member.serves
        }
        if served == member.noted:
            return False
        gone, member.noted = member.noted.keys() - served.keys(), served
        for seats in (self._balance, self._generations):
            for model in gone:
                seats.on_no_revision(member.address, model)
            for model, revision in served.items():
                seats.on_revision(member.address, model, revision)
        return True

    def _let_go(self, now: float) -> None:
        gone = [
            member
            for member in self._members.values()
            if not member.listed
            and member.health.state is not State.HEALTHY
            and not self._balance.inflight(member.address)
            and not self._generations.inflight(member.address)
        ]
        for member in gone:
            del self._members[member.address]
            self._balance.on_removed(member.address, now=now)
            self._generations.on_removed(member.address, now=now)
            member.leave()
            for attendant in self._attendants:
                attendant.on_left(member.address)
