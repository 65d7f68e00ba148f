"""Who asks and for how much: classes of traffic, tenants, rows; drawn by share from a seed.

Which class, tenant and number of rows a request has is independent of when it is sent and of each
other. A trace brings its own and draws nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from chassis.connections import checked_token
from chassis.errors import InvalidArgument
from chassis.names import checked_name

# The name under which the whole is reported.
TOTAL = "total"
MAX_CELLS = 1024

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TrafficClass:
    """One kind of request. Raises InvalidArgument (BAD_NAME, BAD_CLASS)."""

    name: str = "default"
    # The protocol's parameter `priority`; 0 does not send it.
    priority: int = 0
    # Its part of the requests, relative to the others' shares.
    share: float = 1.0
    # Seconds after the intended time at which the client gives up; None: the plan's timeout.
    deadline_s: float | None = None
    # Seconds within which an answer is good; None: the deadline, and any answer without one.
    objective_s: float | None = None

    def __post_init__(self) -> None:
        _check_member(self.name, self.share, "class")
        if self.priority < 0:
            raise _bad_class(self.name, f"priority {self.priority}: expected 0 or more")
        for what, span in (("deadline", self.deadline_s), ("objective", self.objective_s)):
            if span is not None and not 0 < span < float("inf"):
                raise _bad_class(self.name, f"{what} of {span:g} s: expected a time above 0")

    @property
    def good_within_s(self) -> float:
        """The latency up to which an answer counts as good."""
        if self.objective_s is not None:
            return self.objective_s
        return float("inf") if self.deadline_s is None else self.deadline_s


@dataclass(frozen=True, slots=True)
class Tenant:
    """On whose behalf requests are sent. Raises InvalidArgument (BAD_NAME, BAD_CLASS, BAD_TOKEN).

    With a token it identifies itself by `authorization`, without one by the parameter `tenant`.
    """

    name: str = ""
    share: float = 1.0
    token: str = ""

    def __post_init__(self) -> None:
        _check_member(self.name or "nobody", self.share, "tenant")
        if self.token:
            checked_token(self.token)

    def __repr__(self) -> str:
        return f"Tenant({self.name!r}, share={self.share:g})"


@dataclass(frozen=True, slots=True)
class Mix:
    """Classes and tenants. Raises InvalidArgument (BAD_CLASS)."""

    classes: tuple[TrafficClass, ...] = field(default_factory=lambda: (TrafficClass(),))
    tenants: tuple[Tenant, ...] = field(default_factory=lambda: (Tenant(),))

    def __post_init__(self) -> None:
        for what, members in (("class", self.classes), ("tenant", self.tenants)):
            names = [member.name for member in members]
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise InvalidArgument("BAD_CLASS", f"{what} {min(twice)!r} is named twice")
            if not sum(member.share for member in members) > 0:
                raise InvalidArgument("BAD_CLASS", f"no {what} has a share above 0")
        if len(self.classes) * len(self.tenants) > MAX_CELLS:
            raise InvalidArgument(
                "BAD_CLASS", f"classes times tenants are more than {MAX_CELLS} pairs to count"
            )


class MixDraw:
    """Draws of one seed, in step with the arrivals."""

    def __init__(self, mix: Mix, rows: tuple[int, int], seed: int) -> None:
        self._draw = np.random.default_rng([seed, 1])
        self._classes = _cumulative([item.share for item in mix.classes])
        self._tenants = _cumulative([item.share for item in mix.tenants])
        self._rows = rows

    def take(self, count: int) -> tuple[Indices, Indices, Indices]:
        """Class index, tenant index and rows of the next `count` requests."""
        least, most = self._rows
        return (
            np.searchsorted(self._classes, self._draw.random(count), side="right"),
            np.searchsorted(self._tenants, self._draw.random(count), side="right"),
            self._draw.integers(least, most + 1, count),
        )


def _cumulative(shares: Sequence[float]) -> npt.NDArray[np.float64]:
    """Upper ends of each share in [0, 1); the last is left open against rounding."""
    sums = np.cumsum(np.asarray(shares, dtype=np.float64))
    ends: npt.NDArray[np.float64] = sums[:-1] / sums[-1]
    return ends


def _check_member(name: str, share: float, what: str) -> None:
    checked_name(name, what=what)
    if name == TOTAL:
        raise InvalidArgument("BAD_CLASS", f"{what} {TOTAL!r}: the name is that of the whole")
    if not 0 <= share < float("inf"):
        raise InvalidArgument("BAD_CLASS", f"{what} {name!r}: share {share:g} is below 0")


def _bad_class(name: str, cause: str) -> InvalidArgument:
    return InvalidArgument("BAD_CLASS", f"class {name!r}: {cause}")
