"""The loop that carries rollouts out: reads channels, asks gateways, decides, moves.

It holds nothing that the store does not: one that is killed at any point and started again, or
runs twice, goes on where the record stands. All it remembers is when it first saw every endpoint
ready, from which a first stage counts, and what it said already. What comes next is decided by
`headrace.policy.rollout`, in which order channels move by `model_store.promotion`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from chassis.clock import wall_time_ms
from chassis.errors import Aborted, FailedPrecondition, HeadraceError
from chassis.telemetry import logger
from headrace.policy.evidence import Evidence
from headrace.policy.rollout import Abort, Advance, Promote, Verdict, Wait, stage_words
from headrace.rollout.beginning import is_new, start
from headrace.rollout.notes import Notes
from headrace.rollout.standing import Asked, Standing, figures_of, look_at
from model_store import promotion
from model_store.promotion import CANARY, STABLE
from model_store.records import Channel
from model_store.rollout import Rollout, RolloutPlan
from model_store.store import Store

log = logger(__name__)

POLL_S = 1.0
# What a channel's history takes.
MAX_REASON_CHARS = 500
# Refusals that say how the channels stand by now, which the next look sees.
_LOST_RACES = frozenset(
    {
        "ROLLOUT_MOVED",
        "NO_ROLLOUT",
        "CHANNEL_HELD",
        "ROLLOUT_RUNNING",
        "NO_CANDIDATE",
        "NOT_NEWER",
        "ALREADY_PROMOTED",
        "PROMOTION_BEGUN",
    }
)


class Stop(Protocol):
    """When to end; a threading.Event is one."""

    def is_set(self) -> bool:
        """Whether it is time to end."""

    def wait(self, timeout: float) -> bool:
        """Waits for it, at most so many seconds; whether it came."""


class Controller:
    """Carries out the rollouts of `models`, or of every model where none is named.

    With `auto` a version newly published to channel `candidate` begins one against `against`.
    `told` gets each standing, before the moves that follow from it.
    """

    def __init__(
        self,
        store: Store,
        gateways: Asked,
        *,
        models: Sequence[str] = (),
        auto: RolloutPlan | None = None,
        candidate: str = CANARY,
        against: str = STABLE,
        told: Callable[[Standing], None] = lambda _standing: None,
        wall_ms: Callable[[], int] = wall_time_ms,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._gateways = gateways
        self._models = tuple(models)
        self._auto = auto
        self._candidate = candidate
        self._against = against
        self._told = told
        self._wall_ms = wall_ms
        self._clock = clock
        self._notes = Notes()
        # When every endpoint was first seen ready, by model, channel and revision.
        self._ready_at: dict[tuple[str, str, int], float] = {}

    def run(self, stop: Stop, *, poll_s: float = POLL_S) -> None:
        """Looks every `poll_s` seconds until `stop` is set; what fails is told once and retried."""
        while not stop.is_set():
            self.look()
            stop.wait(poll_s)

    def look(self) -> list[Standing]:
        """One look at every model; returns the rollouts that ran. Raises nothing of ours."""
        found: list[Standing] = []
        for model in self._named():
            try:
                standings = self._look_at(model)
            except HeadraceError as error:
                # What was seen ready stays so: the store's trouble is not the endpoints'.
                self._notes.trouble("model", model, error.message)
                continue
            self._notes.clear("model", model)
            self._forget_ended(model, standings)
            found += standings
        return found

    def _forget_ended(self, model: str, standings: Sequence[Standing]) -> None:
        running = {_key(standing.channel) for standing in standings}
        ended = [key for key in self._ready_at if key[0] == model and key not in running]
        for key in ended:
            del self._ready_at[key]

    def _named(self) -> Sequence[str]:
        if self._models:
            return self._models
        try:
            models = self._store.models()
            self._notes.clear("store", self._store.url)
        except HeadraceError as error:
            self._notes.trouble("store", self._store.url, error.message)
            return ()
        return models

    def _look_at(self, model: str) -> list[Standing]:
        channels = {channel.name: channel for channel in self._store.channels(model)}
        standings = []
        for channel in channels.values():
            if channel.rollout is not None and channel.rollout.running:
                standings.append(self._carry_on(channel, channel.rollout))
        new = is_new(channels.get(self._candidate), channels.get(self._against))
        if self._auto is not None and new:
            self._begin(model, self._auto)
        return standings

    def _carry_on(self, channel: Channel, rollout: Rollout) -> Standing:
        standing = look_at(
            self._store,
            self._gateways,
            channel,
            rollout,
            ready_for=lambda evidence, _elapsed_s: self._ready_s(channel, evidence),
            wall_ms=self._wall_ms,
        )
        self._note_errors(standing)
        self._note_verdict(standing)
        self._told(standing)
        self._raced(channel.model, lambda: self._move(channel, standing.verdict))
        return standing

    def _move(self, seen: Channel, verdict: Verdict) -> None:
        reason = verdict.reason[:MAX_REASON_CHARS]
        if isinstance(verdict, Advance):
            promotion.advance(self._store, seen, reason=reason)
        elif isinstance(verdict, Promote):
            promotion.promote(self._store, seen.model, channel=seen.name, seen=seen, reason=reason)
        elif isinstance(verdict, Abort):
            promotion.abort(self._store, seen.model, channel=seen.name, seen=seen, reason=reason)

    def _begin(self, model: str, plan: RolloutPlan) -> None:
        def move() -> None:
            begun = start(
                self._store,
                model,
                plan=plan,
                channel=self._candidate,
                against=self._against,
                reason="rollout of a new version",
            )
            log.info("rollout begins", model=model, version=begun.version, channel=begun.name)

        self._raced(model, move)

    def _raced(self, model: str, move: Callable[[], None]) -> None:
        """Makes a move; where somebody else was faster the next look sees what he did."""
        try:
            move()
        except Aborted as error:
            log.info("somebody else moved first", model=model, why=error.message)
        except FailedPrecondition as error:
            if error.reason not in _LOST_RACES:
                raise
            log.info("somebody else moved first", model=model, why=error.message)

    def _ready_s(self, seen: Channel, evidence: Evidence) -> float | None:
        key, now = _key(seen), self._clock()
        if not evidence.ready:
            self._ready_at.pop(key, None)
            return None
        return now - self._ready_at.setdefault(key, now)

    def _note_errors(self, standing: Standing) -> None:
        for name in {*standing.errors, *self._notes.names("gateway")}:
            if name in standing.errors:
                self._notes.trouble("gateway", name, standing.errors[name])
            else:
                self._notes.clear("gateway", name)

    def _note_verdict(self, standing: Standing) -> None:
        channel, verdict = standing.channel, standing.verdict
        needs = verdict.needs if isinstance(verdict, Wait) else verdict.reason
        # Its figures change with every look: it is news where something else is missing.
        if not self._notes.is_new(
            "verdict", f"{channel.model}@{channel.name}", f"{channel.revision} {needs}"
        ):
            return
        log.info(
            type(verdict).__name__.lower(),
            model=channel.model,
            version=channel.version,
            channel=channel.name,
            stage=stage_words(standing.rollout),
            why=verdict.reason,
            **figures_of(standing),
        )


def _key(channel: Channel) -> tuple[str, str, int]:
    return channel.model, channel.name, channel.revision
