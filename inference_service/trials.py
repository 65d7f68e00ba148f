"""Which engine and precision a model gets where the settings leave it open: measured, once.

At the first load, before anything serves, each candidate is filled with the version's weights, has
to pass warm-up and probe, and is timed on the golden rows at a small, a middle and the largest
batch. Decides by the geometric mean over the batch sizes; what comes as published is kept unless
another is clearly faster. One precision's weights lie on the device at a time.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from chassis.errors import HeadraceError
from chassis.telemetry import logger
from inference_service.architecture import Architecture, Choice
from inference_service.engines.engine import AS_PUBLISHED, COMPILED
from inference_service.instance import Instance
from inference_service.precision import Precision
from inference_service.rehearsal import Rehearsal
from model_store.records import Manifest, ProgramKind

log = logger(__name__)

# A gain below this is noise, and a compiled program costs a minute at each start.
LEAST_GAIN = 0.05
# Forward passes of one batch size: as many as fit, within these.
LEAST_PASSES, MOST_PASSES, PASSES_S = 5, 200, 0.5


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate: median seconds of a forward pass by rows (0 for a model without a batch
    dimension), none where `why_not` says why it cannot be had or was not measured."""

    engine: str
    precision: str
    seconds: dict[int, float] = field(default_factory=dict)
    why_not: str = ""


def candidates(
    manifest: Manifest, precisions: Sequence[str], *, cuda_graphs: bool = False
) -> list[Choice]:
    """What a version can be computed by, that as published first; one precision's together."""
    exported = manifest.program.kind is ProgramKind.EXPORTED
    engines = (AS_PUBLISHED, COMPILED) if exported else (AS_PUBLISHED,)
    return [
        Choice(engine, Precision(name), cuda_graphs) for name in precisions for engine in engines
    ]


def best_of(trials: Iterable[Trial]) -> int:
    """The index of the fastest; 0, the first, unless another gains more than LEAST_GAIN on it."""
    listed = list(trials)
    base = listed[0].seconds
    scores = [_score(trial.seconds, base) for trial in listed]
    fastest = min(range(len(listed)), key=scores.__getitem__)
    return fastest if scores[fastest] < math.log(1 - LEAST_GAIN) else 0


def _score(seconds: dict[int, float], base: dict[int, float]) -> float:
    if not seconds:
        return math.inf
    if not base:
        # What comes as published does not work: whatever does is better.
        return -math.inf
    return statistics.fmean(math.log(seconds[rows] / base[rows]) for rows in base)


class Trials:
    """Measures for one model.

    `fill` installs and verifies the version's weights in an instance; `go_on` raises to stop.
    """

    def __init__(
        self,
        architecture: Architecture,
        rehearsal: Rehearsal,
        fill: Callable[[Instance], None],
        go_on: Callable[[], None],
        *,
        budget_s: float,
        cuda_graphs: bool = False,
    ) -> None:
        self._cuda_graphs = cuda_graphs
        self._architecture = architecture
        self._rehearsal = rehearsal
        self._fill = fill
        self._go_on = go_on
        self._budget_s = budget_s

    def choose(self, manifest: Manifest, precisions: Sequence[str]) -> tuple[Choice, list[Trial]]:
        """The choice and the table behind it. Raises what `Architecture.build` and `fill` do."""
        choices = candidates(manifest, precisions, cuda_graphs=self._cuda_graphs)
        if len(choices) == 1 or manifest.signature.decoupled:
            return choices[0], []
        over_at = time.monotonic() + self._budget_s
        trials = list(self._tried(manifest, choices, over_at))
        index = best_of(trials)
        log.info(
            "engine chosen by measurement",
            model=manifest.model,
            engine=trials[index].engine,
            precision=trials[index].precision,
            table=[sentence(trial) for trial in trials],
        )
        return choices[index], trials

    def _tried(
        self, manifest: Manifest, choices: Sequence[Choice], over_at: float
    ) -> Iterator[Trial]:
        filled: Instance | None = None
        for choice in choices:
            self._go_on()
            if filled is not None and filled.precision != choice.precision:
                # Before the next is filled: two would not fit.
                filled = None
            trial, instance = self._try(manifest, choice, filled, over_at)
            filled = filled or instance
            yield trial

    def _try(
        self, manifest: Manifest, choice: Choice, filled: Instance | None, over_at: float
    ) -> tuple[Trial, Instance | None]:
        """One candidate, and the instance that holds the weights; `filled` lends them to it."""
        name = choice.engine if choice.engine != AS_PUBLISHED else _published(manifest)
        instance = None
        try:
            left_s = over_at - time.monotonic()
            if left_s <= 0:
                raise _NotTried(f"not measured: the {self._budget_s:g} s for it were over")
            built = self._architecture.build(manifest, choice, go_on=self._go_on, timeout_s=left_s)
            if built.why_not:
                raise _NotTried(built.why_not)
            built.materialize(None if filled is None else filled.tensors)
            if filled is None:
                self._fill(built)
            instance = built
            return Trial(name, choice.precision.name, self._measured(built)), instance
        except _NotTried as reason:
            return Trial(name, choice.precision.name, why_not=str(reason)), instance
        except HeadraceError as error:
            why_not = f"{error.reason}: {error.message}"
            return Trial(name, choice.precision.name, why_not=why_not), instance

    def _measured(self, instance: Instance) -> dict[int, float]:
        self._rehearsal.warm_up(instance)
        self._rehearsal.prove(instance)
        return {rows: self._median_s(instance, rows) for rows in self._rehearsal.sizes()}

    def _median_s(self, instance: Instance, rows: int) -> float:
        spans: list[float] = []
        over_at = time.perf_counter() + PASSES_S
        while len(spans) < LEAST_PASSES or (
            len(spans) < MOST_PASSES and time.perf_counter() < over_at
        ):
            self._go_on()
            spans.append(self._rehearsal.timed(instance, rows))
        return statistics.median(spans)


class _NotTried(Exception):
    """Why a candidate has no figures."""


def _published(manifest: Manifest) -> str:
    return "exported" if manifest.program.kind is ProgramKind.EXPORTED else "eager"


def sentence(trial: Trial) -> str:
    """A row of the table in words."""
    figures = ", ".join(f"{rows}: {s * 1e6:.0f} us" for rows, s in trial.seconds.items())
    return f"{trial.engine} {trial.precision}: {figures or trial.why_not}"
