"""p99 of callers with and without publications, from short phases in turn.

A shared machine drifts by more within minutes than a publication costs. So phases are short, each
round holds one of every kind in an order of its own, and compared are all answers of a kind. How
sure the ratio is, whole rounds drawn again and again tell (Efron's bootstrap, 1979).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

# Nothing is published; versions that no replica follows; versions that all replicas load.
NONE, UNFOLLOWED, FOLLOWED = "", "elsewhere", "stable"
KINDS = (NONE, UNFOLLOWED, FOLLOWED)
DRAWS = 2000
# Of the draws, between which the ratio lies.
LIKELY = (5, 95)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of two p99, and where nine in ten draws of the rounds had it."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Calm:
    """p99 in milliseconds without publications, with one a second that no replica follows, with one
    a second that all load. `publishing` is the last over the first, `unfollowed` the second over
    the first: what a trainer on the same cores costs, and `loading` the last over the second."""

    without_ms: float
    unfollowed_ms: float
    publishing_ms: float
    publishing: Ratio
    unfollowed: Ratio
    loading: Ratio
    rounds: int
    answers: int
    requests_per_s: float


def order(rounds: int) -> Iterator[str]:
    """Every kind once a round, in an order that differs between rounds."""
    draw = np.random.default_rng(0)
    for _ in range(rounds):
        yield from (KINDS[at] for at in draw.permutation(len(KINDS)))


@dataclass(slots=True)
class Phases:
    """When each kind of phase was, on the clock of the answers."""

    spans: dict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: {kind: [] for kind in KINDS}
    )

    def add(self, kind: str, began: float, ended: float) -> None:
        """One that is over."""
        self.spans[kind].append((began, ended))

    def calm(self, sent_s: Sequence[float], latencies_s: Sequence[float]) -> Calm:
        """Of the answers asked for in the phases."""
        by_kind = {
            kind: [_within(span, sent_s, latencies_s) for span in spans]
            for kind, spans in self.spans.items()
        }
        without, unfollowed, followed = (by_kind[kind] for kind in KINDS)
        answers = sum(len(phase) for phases in by_kind.values() for phase in phases)
        seconds = sum(ended - began for spans in self.spans.values() for began, ended in spans)
        return Calm(
            _p99_ms(without),
            _p99_ms(unfollowed),
            _p99_ms(followed),
            _ratio(followed, without),
            _ratio(unfollowed, without),
            _ratio(followed, unfollowed),
            len(without),
            answers,
            answers / seconds,
        )


def _within(
    span: tuple[float, float], sent_s: Sequence[float], latencies_s: Sequence[float]
) -> Floats:
    sent = np.asarray(sent_s)
    return np.asarray(latencies_s)[(span[0] <= sent) & (sent < span[1])]


def _p99_ms(phases: Sequence[Floats]) -> float:
    return float(np.percentile(np.concatenate(phases), 99)) * 1000


def _ratio(phases: Sequence[Floats], beside: Sequence[Floats]) -> Ratio:
    """Rounds are drawn, not answers: those of a phase share what the machine did meanwhile."""
    draw, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        rounds = draw.integers(len(phases), size=len(phases))
        one, other = ([kind[at] for at in rounds] for kind in (phases, beside))
        found.append(_p99_ms(one) / _p99_ms(other))
    low, high = np.percentile(found, LIKELY)
    return Ratio(_p99_ms(phases) / _p99_ms(beside), float(low), float(high))
