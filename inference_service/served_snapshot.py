"""What there is to know of a served model at one moment; frozen, for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass

from inference_service.instance import GraphReport
from inference_service.policy.cadence import Irregularity
from inference_service.slot import SlotSnapshot
from inference_service.trials import Trial


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """A version that could not be loaded, and why."""

    version: int
    reason: str
    message: str
    fail_time_ms: int
    # Whether another try cannot help.
    permanent: bool = True


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What computes: engine and precision, "" before the first version; `why_not` where it is not
    what the settings ask for; `trials` where it was measured; `graphs` where some are asked for."""

    engine: str = ""
    precision: str = ""
    why_not: str = ""
    trials: tuple[Trial, ...] = ()
    graphs: GraphReport | None = None


@dataclass(frozen=True, slots=True)
class ServedSnapshot:
    """A model at one moment; durations in milliseconds, 0 where they do not apply."""

    model: str
    channel: str
    serving_version: int
    wanted_version: int
    step: int
    age_ms: int
    behind_ms: int
    slots: tuple[SlotSnapshot, ...]
    failures: tuple[LoadFailure, ...]
    swaps: int
    last_load_ms: float
    load_step: str
    store_error: str
    first_reply_ms: int
    engine: EngineReport
    # Of the channel, at which the serving version began to serve; 0 where it does not say.
    revision: int
    # The candidate that does not serve; 0 for none.
    candidate_version: int
    candidate_ready: bool
    # What is unusual about the publications to its channel; None while they come as they did.
    irregularity: Irregularity | None
