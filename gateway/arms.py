"""What a rollout shows of its candidate and of the version beside it, counted while a stage lasts.

Sums only, so that figures of several gateways add up; what they mean is whoever's that reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from chassis.errors import ResourceExhausted
from gateway.policy.rollout import Candidate

# A caller must not fill the memory with names.
MOST_METRICS = 32
KEPT_VERSIONS = 64


@dataclass(slots=True)
class Sum:
    """Numbers added up: how many, their sum, the sum of their squares."""

    count: int = 0
    sum: float = 0.0
    sum_squares: float = 0.0

    def add(self, value: float) -> None:
        """One more."""
        self.count += 1
        self.sum += value
        self.sum_squares += value * value


@dataclass(slots=True)
class Arm:
    """What one version, or all beside the candidate, did in a stage.

    `slowness` is actual over expected time of a batch; `latency_ms` is from arrival to answer.
    """

    version: int = 0
    requests: int = 0
    failed: int = 0
    slowness: Sum = field(default_factory=Sum)
    latency_ms: Sum = field(default_factory=Sum)
    scores: dict[str, Sum] = field(default_factory=dict)

    def score(self, metric: str, value: float) -> None:
        """A label came back."""
        self.scores.setdefault(metric, Sum()).add(value)


@dataclass(slots=True)
class Shadowed:
    """Outputs of the candidate beside those that callers got."""

    batches: int = 0
    failed: int = 0
    rows: int = 0
    changed_rows: int = 0
    difference: Sum = field(default_factory=Sum)
    max_difference: float = 0.0


@dataclass(slots=True)
class Figures:
    """One stage of one rollout."""

    stage: Candidate
    candidate: Arm
    control: Arm
    shadow: Shadowed = field(default_factory=Shadowed)
    # Versions that answered beside the candidate since the rollout began: labels come late.
    beside: dict[int, None] = field(default_factory=dict)

    def note_beside(self, version: int) -> None:
        """A version answered beside the candidate."""
        if version != self.control.version:
            self.control.version = max(version, self.control.version)
            self.beside.pop(version, None)
            self.beside[version] = None
            while len(self.beside) > KEPT_VERSIONS:
                self.beside.pop(next(iter(self.beside)))

    def check_metrics(self, metrics: Collection[str]) -> None:
        """Raises ResourceExhausted (TOO_MANY_METRICS); the one that decides always has room."""
        known = {self.stage.metric, *self.candidate.scores, *self.control.scores}
        if len(known.union(metrics)) > MOST_METRICS and not known.issuperset(metrics):
            raise ResourceExhausted(
                "TOO_MANY_METRICS",
                f"scores of {MOST_METRICS} metrics are kept in a stage, such as {max(known)!r}",
            )

    def arm_of(self, version: int) -> Arm | None:
        """The arm that an answer of that version belongs to."""
        if version == self.stage.version:
            return self.candidate
        return self.control if version in self.beside else None


class Arms:
    """Figures of each model whose rollout runs; they begin anew with each stage."""

    def __init__(self, current: Callable[[str], Candidate | None]) -> None:
        self._current = current
        self._figures: dict[str, Figures] = {}

    def on_trial(self, model: str, version: int) -> bool:
        """Whether that version is the model's candidate now."""
        current = self._current(model)
        return current is not None and current.version == version

    def of(self, model: str, version: int = 0) -> Figures | None:
        """Those of the present stage; None where no rollout runs.

        Of a candidate `version` under way also those of before: a candidate that takes its
        endpoints along ends its own rollout for as long as they are away.
        """
        current = self._current(model)
        figures = self._figures.get(model)
        if current is None:
            asked = figures is not None and version == figures.stage.version
            return figures if asked else None
        if figures is None or figures.stage.revision != current.revision:
            same = figures is not None and figures.stage.version == current.version
            beside = dict(figures.beside) if same and figures is not None else {}
            figures = self._figures[model] = Figures(
                current, Arm(current.version), Arm(), beside=beside
            )
        return figures
