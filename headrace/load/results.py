"""What a load measured: tallies by class and tenant, and how well the generator itself kept up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from headrace.load.job import Part
from headrace.load.latencies import Latencies
from headrace.load.mix import Mix
from headrace.load.plan import LoadPlan
from headrace.load.tally import Tally, merged

# A generator that is later than this in the 99th percentile is not believed ...
LATE_S = 0.050
# ... nor one whose lateness is more than this part of the latency that it measured.
LATE_SHARE = 0.2
# Below it lateness is the operating system's, on any machine.
PROMPT_S = 0.001


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One load's outcome. Counts are of requests intended after the warm-up."""

    plan: LoadPlan
    # When the load began, milliseconds since the Unix epoch.
    start_time_ms: int
    # Counted seconds: as planned, or until it was stopped.
    seconds: float
    # Whether the whole schedule was sent.
    complete: bool
    # By name of class and of tenant.
    cells: Mapping[tuple[str, str], Tally]
    # By which requests were sent after their intended time.
    lag: Latencies
    # Processor time of all load processes, warm-up included, and the requests it was spent on.
    cpu_s: float
    requests: int

    @property
    def total(self) -> Tally:
        """Of all requests."""
        return merged(self.cells.values(), self.plan.interval_s)

    def of_class(self, name: str) -> Tally:
        """Of one class; empty where it had no requests."""
        return self._merged(kind=name)

    def of_tenant(self, name: str) -> Tally:
        """Of one tenant; empty where it had no requests."""
        return self._merged(tenant=name)

    def by_class(self) -> Iterator[tuple[str, Tally]]:
        """Every class that had requests, in the plan's order."""
        present = {kind for kind, _ in self.cells}
        for item in self.plan.mix.classes:
            if item.name in present:
                yield item.name, self.of_class(item.name)

    def by_tenant(self) -> Iterator[tuple[str, Tally]]:
        """Every tenant that had requests, in the plan's order."""
        present = {tenant for _, tenant in self.cells}
        for item in self.plan.mix.tenants:
            if item.name in present:
                yield item.name, self.of_tenant(item.name)

    @property
    def cpu_us_per_request(self) -> float:
        """What a request cost the generator, in microseconds of processor time."""
        return self.cpu_s / self.requests * 1e6 if self.requests else 0.0

    @property
    def kept_up(self) -> bool:
        """Whether the generator was prompt enough for its figures to be the server's."""
        lag_s = self.lag.percentile_s(99)
        if lag_s <= PROMPT_S:
            return True
        return lag_s <= min(LATE_S, LATE_SHARE * self.total.latencies.percentile_s(99))

    def _merged(self, *, kind: str | None = None, tenant: str | None = None) -> Tally:
        return merged(
            (
                tally
                for (its_kind, its_tenant), tally in self.cells.items()
                if kind in (None, its_kind) and tenant in (None, its_tenant)
            ),
            self.plan.interval_s,
        )


def joined(parts: Sequence[Part], mix: Mix, interval_s: float) -> dict[tuple[str, str], Tally]:
    """The tallies of all processes, by name of class and tenant."""
    cells: dict[tuple[str, str], Tally] = {}
    for part in parts:
        for (kind, tenant), tally in part.tallies.items():
            name = mix.classes[kind].name, mix.tenants[tenant].name
            cells.setdefault(name, Tally(interval_s)).add(tally)
    return cells
