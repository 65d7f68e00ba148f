"""Which endpoint still has to be told what of a model, and what it is not used for meanwhile.

A directive says that a model is to be loaded, in some way, or unloaded. The newest one of a model
stands. An endpoint is told when it joins, and again after each time it was lost: it may be another
process by then. One that could not do it is told again, with pauses.

Pure: telling an endpoint is the repository's, what a directive says in detail is not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Directive:
    """The `number`th change: `model` is to be loaded as `version` and `channel` say (0 and "" where
    the change did not), or unloaded."""

    number: int
    model: str
    loaded: bool
    version: int = 0
    channel: str = ""


@dataclass(slots=True)
class _Place:
    """How far an endpoint has come with the directive of that number."""

    number: int
    under_way: bool = True
    applied: bool = False
    # How often it tried and could not, and when it is told again; never while one is under way.
    failures: int = 0
    retry_at: float = float("inf")


class Directives:
    """What stands for the fleet, and what each endpoint made of it, by address."""

    def __init__(self) -> None:
        self._standing: dict[str, Directive] = {}
        self._endpoints: dict[str, dict[str, _Place]] = {}

    def on_given(self, directive: Directive) -> None:
        """It stands in the place of the model's earlier one; nobody has been told of it yet."""
        self._standing[directive.model] = directive
        for places in self._endpoints.values():
            place = places.get(directive.model)
            if place is not None and not place.under_way:
                del places[directive.model]

    def on_joined(self, address: str) -> None:
        """An endpoint is ready, for the first time or after it was lost."""
        self._endpoints[address] = {}

    def on_left(self, address: str) -> None:
        """It is gone."""
        self._endpoints.pop(address, None)

    def on_applied(self, address: str, directive: Directive) -> None:
        """The endpoint did as it was told."""
        self._end(address, directive, _Place(directive.number, under_way=False, applied=True))

    def on_failed(self, address: str, directive: Directive, *, now: float) -> None:
        """It could not; it is told again later."""
        place = self._endpoints.get(address, {}).get(directive.model)
        failures = place.failures if place is not None else 0
        retry_at = now + min(FIRST_PAUSE_S * 2 ** min(failures, 8), LONGEST_PAUSE_S)
        failed = _Place(directive.number, False, failures=failures + 1, retry_at=retry_at)
        self._end(address, directive, failed)

    def take_due(self, address: str, *, now: float) -> list[Directive]:
        """What to tell the endpoint now; each ends in `on_applied` or `on_failed`."""
        places = self._endpoints.get(address)
        if places is None:
            return []
        due = []
        for model, directive in self._standing.items():
            place = places.get(model)
            if place is None or place.retry_at <= now:
                failures = place.failures if place is not None else 0
                places[model] = _Place(directive.number, failures=failures)
                due.append(directive)
        return due

    def withheld(self, address: str) -> frozenset[str]:
        """Models that the endpoint is not used for.

        Those unloaded; and those that it may serve otherwise than was said, until it did as it was
        told or failed to: one that cannot be told is better than none.
        """
        places = self._endpoints.get(address, {})
        return frozenset(
            model
            for model, directive in self._standing.items()
            if not directive.loaded or _open(places.get(model), directive)
        )

    def unloaded(self) -> frozenset[str]:
        """Models that are not to be served."""
        return frozenset(name for name, given in self._standing.items() if not given.loaded)

    def next_wakeup(self, address: str) -> float | None:
        """When the endpoint is told again what it could not do; None where nothing is open."""
        places = self._endpoints.get(address, {})
        pauses = [place.retry_at for place in places.values() if place.failures]
        at = min(pauses, default=float("inf"))
        return None if at == float("inf") else at

    def _end(self, address: str, directive: Directive, place: _Place) -> None:
        places = self._endpoints.get(address)
        if places is None:
            return
        if self._standing[directive.model].number == directive.number:
            places[directive.model] = place
        else:
            # Overtaken while it was under way: what stands now is still to be told.
            places.pop(directive.model, None)


def _open(place: _Place | None, directive: Directive) -> bool:
    if place is None or place.number != directive.number:
        return True
    return not place.applied and not place.failures
