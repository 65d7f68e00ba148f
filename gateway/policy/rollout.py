"""Which version is a model's candidate, and which requests it gets.

Endpoints say of each model which version is on trial, at which revision of its channel, and the
newest revision of that channel that they heard of. Only the newest that any ever heard of counts:
a candidate that was given up must not get one request more because somebody else was not asked yet,
or is cut off from the store.

Its share is that of a fleet that has it everywhere; while only some endpoints do, it is their part
of that share.

Requests of one session go the same way as long as the share grows: a session's place on the line
from 0 to 1 is a hash of its name and the version, so that another rollout tries others first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b

_PLACES = 2**64
NOTHING: Mapping[str, Holding] = {}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version on trial: parts, of 1, of the requests that it gets and that are copied to it.

    `revision` is that of its channel, which every stage moves.
    """

    version: int
    revision: int
    stage: int
    share: float
    shadow: float
    # Name of the scores by which it is judged; "" for none.
    metric: str = ""

    def takes(self, session: str, draw: float) -> bool:
        """Whether it answers a request; `draw`, 0 to 1, decides for one without a session."""
        if session:
            # Not a checksum: names that count up would lie side by side.
            name = blake2b(f"{self.version}/{session}".encode(), digest_size=8).digest()
            draw = int.from_bytes(name) / _PLACES
        return draw < self.share


@dataclass(frozen=True, slots=True)
class Holding:
    """What an endpoint in rotation says of one model: versions ready, the one on trial, and the
    newest revision of the candidates' channel that it heard of."""

    versions: frozenset[int]
    candidate: Candidate | None = None
    revision: int = 0

    @property
    def heard(self) -> int:
        """The revision that it speaks of."""
        return max(self.revision, self.candidate.revision if self.candidate is not None else 0)


class Rollouts:
    """Follows what endpoints say; they are named by address."""

    def __init__(self) -> None:
        self._holdings: dict[str, Mapping[str, Holding]] = {}
        self._current: dict[str, Candidate] = {}
        # The newest revision ever heard of, by model; endpoints that spoke of it may be gone.
        self._heard: dict[str, int] = {}

    def on_endpoint(self, address: str, holdings: Mapping[str, Holding]) -> None:
        """What the endpoint says of its models now; empty for one out of rotation."""
        before = self._holdings.pop(address, NOTHING)
        if holdings:
            self._holdings[address] = dict(holdings)
        if before != holdings:
            for model in {*before, *holdings}:
                self._settle(model)

    def current(self, model: str) -> Candidate | None:
        """The candidate that gets requests now."""
        return self._current.get(model)

    def endpoints(self, model: str) -> tuple[int, int]:
        """How many in rotation serve the model, and on how many of them its candidate is ready."""
        held = self._held(model)
        current = self._current.get(model)
        ready = [one for one in held if current is not None and current.version in one.versions]
        return len(held), len(ready)

    def _held(self, model: str) -> list[Holding]:
        return [held[model] for held in self._holdings.values() if model in held]

    def _settle(self, model: str) -> None:
        self._current.pop(model, None)
        held = self._held(model)
        newest = max([self._heard.get(model, 0), *(holding.heard for holding in held)])
        if not newest:
            return
        self._heard[model] = newest
        for holding in held:
            candidate = holding.candidate
            if candidate is not None and candidate.revision == newest:
                ready = sum(candidate.version in one.versions for one in held)
                share = candidate.share * ready / len(held)
                self._current[model] = replace(candidate, share=share)
                return
