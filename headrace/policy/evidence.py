"""What gateways saw of a rollout in its present stage, added up.

Decides whose figures count: a gateway that has not heard of the stage, or that speaks of another
candidate, is known but says nothing. What follows from the figures is `headrace.policy.rollout`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.policy.confidence import Sample


@dataclass(frozen=True, slots=True)
class Arm:
    """How one version, or all beside the candidate, did. `version` is the newest of several.

    `slowness` is the actual over the expected time of batches, `latency_ms` from arrival to answer.
    """

    version: int = 0
    requests: int = 0
    failed: int = 0
    slowness: Sample = field(default_factory=Sample)
    latency_ms: Sample = field(default_factory=Sample)
    scores: Mapping[str, Sample] = field(default_factory=dict)

    def __add__(self, other: Arm) -> Arm:
        names = {*self.scores, *other.scores}
        return Arm(
            max(self.version, other.version),
            self.requests + other.requests,
            self.failed + other.failed,
            self.slowness + other.slowness,
            self.latency_ms + other.latency_ms,
            {name: self.score(name) + other.score(name) for name in sorted(names)},
        )

    def score(self, metric: str) -> Sample:
        """The scores of one metric; none where there are none."""
        return self.scores.get(metric, Sample())

    @property
    def failed_share(self) -> float:
        """Of the requests; 0 of none."""
        return self.failed / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class Shadow:
    """Copies that the candidate was given, beside what callers got: `failed` of all `batches`.

    `changed_rows` of the `rows` compared have their largest value at another place.
    """

    batches: int = 0
    failed: int = 0
    rows: int = 0
    changed_rows: int = 0
    difference: Sample = field(default_factory=Sample)
    max_difference: float = 0.0

    def __add__(self, other: Shadow) -> Shadow:
        return Shadow(
            self.batches + other.batches,
            self.failed + other.failed,
            self.rows + other.rows,
            self.changed_rows + other.changed_rows,
            self.difference + other.difference,
            max(self.max_difference, other.max_difference),
        )

    @property
    def changed_share(self) -> float:
        """Of the rows compared; 0 of none."""
        return self.changed_rows / self.rows if self.rows else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A rollout as one gateway sees it; `revision` is that of the candidate's channel."""

    version: int = 0
    revision: int = 0
    endpoints: int = 0
    ready_endpoints: int = 0
    candidate: Arm = Arm()
    control: Arm = Arm()
    shadow: Shadow = Shadow()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The figures of all gateways that have heard of the stage, and which have not.

    `silent` did not answer, `empty` have no endpoint for the model, `behind` speak of another stage
    or candidate; their figures are left out. One that knows of no candidate has it ready nowhere.
    """

    gateways: int = 0
    silent: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    endpoints: int = 0
    ready_endpoints: int = 0
    candidate: Arm = Arm()
    control: Arm = Arm()
    shadow: Shadow = Shadow()

    @property
    def ready(self) -> bool:
        """Whether every endpoint of every gateway has the candidate."""
        others = self.silent or self.empty or self.behind
        return bool(self.gateways) and not others and self.ready_endpoints >= self.endpoints


def evidence_of(views: Mapping[str, View | None], *, version: int, revision: int) -> Evidence:
    """Adds up what gateways said, by name; None where one did not answer.

    `version` is the candidate, `revision` that of its channel as the store has it.
    """
    silent = tuple(name for name, view in views.items() if view is None)
    answers = {name: view for name, view in views.items() if view is not None}
    empty = tuple(name for name, view in answers.items() if not view.endpoints)
    known = {name: view for name, view in answers.items() if view.endpoints}
    heard = {
        name: view
        for name, view in known.items()
        if (view.version, view.revision) == (version, revision)
    }
    candidate, control, shadow = Arm(version), Arm(), Shadow()
    for view in heard.values():
        candidate, control = candidate + view.candidate, control + view.control
        shadow = shadow + view.shadow
    return Evidence(
        gateways=len(views),
        silent=silent,
        empty=empty,
        behind=tuple(name for name, view in known.items() if view.version and name not in heard),
        endpoints=sum(view.endpoints for view in known.values()),
        ready_endpoints=sum(view.ready_endpoints for view in heard.values()),
        candidate=candidate,
        control=control,
        shadow=shadow,
    )
