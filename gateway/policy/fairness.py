"""How much of the replicas' time each tenant has had: virtual time, weighted.

Serving rows moves a tenant's clock on by their cost over its weight; of the tenants that wait, the
one whose clock is behind leaves first. So tenants that always have something waiting get time in
proportion to their weights, and one that asks seldom never waits behind one that floods. Time not
used is not saved up: who comes back starts where the others are.

Source: VTC (Sheng et al., OSDI'24), with start-time fair queueing's rule for who comes back (Goyal
et al., SIGCOMM'96).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Tenants that do not wait are remembered this far; their clocks count again if they come soon.
REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class TenantSnapshot:
    """Cost so far over weight, rows so far, requests that wait."""

    virtual_time: float
    rows: int
    waiting: int


class Shares:
    """The clocks of all tenants; a cost is any number, the same unit for all."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        """Tenants that `weights` does not name weigh 1."""
        self._weights = dict(weights)
        self._clocks: dict[str, float] = {}
        self._rows: dict[str, int] = {}
        self._waiting: dict[str, int] = {}
        # No tenant that waits is behind it; never goes back.
        self._floor = 0.0

    def weight(self, tenant: str) -> float:
        """Of a tenant's share."""
        return self._weights.get(tenant, 1.0)

    def total_weight(self) -> float:
        """Of all tenants that wait; 0 if none does."""
        return sum([self.weight(tenant) for tenant in self._waiting])

    def over_share(self, tenant: str) -> bool:
        """Whether more of the tenant waits than its weight grants; False where none else waits."""
        others = len(self._waiting) - (tenant in self._waiting)
        if not others:
            return False
        count, total = self._waiting.get(tenant, 0), sum(self._waiting.values())
        return count * self.total_weight() > total * self.weight(tenant)

    def on_waiting(self, tenant: str) -> None:
        """One more request of the tenant waits."""
        count = self._waiting.get(tenant, 0)
        self._waiting[tenant] = count + 1
        if not count:
            self._clocks[tenant] = max(self._clocks.pop(tenant, 0.0), self._floor)
            if len(self._clocks) > REMEMBERED:
                self._forget()

    def on_left(self, tenant: str, count: int = 1) -> None:
        """So many requests of the tenant wait no more."""
        left = self._waiting[tenant] - count
        if left:
            self._waiting[tenant] = left
        else:
            del self._waiting[tenant]

    def clock(self, tenant: str) -> float:
        """The virtual time of a tenant."""
        return self._clocks.get(tenant, self._floor)

    def charge(self, tenant: str, rows: int, cost: float) -> float:
        """Rows of the tenant that cost so much are served; its virtual time after that."""
        self._clocks[tenant] = after = self.clock(tenant) + cost / self.weight(tenant)
        self._rows[tenant] = self._rows.get(tenant, 0) + rows
        return after

    def advance(self) -> None:
        """A batch was taken: who comes back from now on starts where those that wait are."""
        clocks = [self._clocks[tenant] for tenant in self._waiting]
        self._floor = max(self._floor, min(clocks or self._clocks.values(), default=0.0))

    def snapshot(self) -> dict[str, TenantSnapshot]:
        """By tenant: those that wait, and some that waited lately."""
        return {
            tenant: TenantSnapshot(clock, self._rows.get(tenant, 0), self._waiting.get(tenant, 0))
            for tenant, clock in self._clocks.items()
        }

    def _forget(self) -> None:
        """Drops those that waited longest ago; none of them waits."""
        idle = [tenant for tenant in self._clocks if tenant not in self._waiting]
        for tenant in idle[: len(idle) // 2]:
            del self._clocks[tenant]
            self._rows.pop(tenant, None)
