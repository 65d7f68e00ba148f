"""A run as it is remembered: its specification, where it is in its life, how far it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any

from trainer_service.spec import RunSpec


class RunState(IntEnum):
    """Where a run is in its life; the values are those of headrace.v1.RunState."""

    STARTING = 1
    RUNNING = 2
    PAUSED = 3
    COMPLETED = 4
    STOPPED = 5
    FAILED = 6


# In these a run has, or is about to have, a job.
ACTIVE = frozenset({RunState.STARTING, RunState.RUNNING})
ENDED = frozenset({RunState.COMPLETED, RunState.STOPPED, RunState.FAILED})


@dataclass(frozen=True, slots=True)
class RunRecord:
    """As headrace.v1.Run; `create_time_ms` orders runs by age."""

    run_id: str
    spec: RunSpec
    state: RunState
    create_time_ms: int = 0
    step: int = 0
    loss: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    versions_published: int = 0
    last_version: int = 0
    steps_per_s: float = 0.0
    restarts: int = 0
    checkpoint_step: int = 0
    error: str = ""
    revision: int = 0
    pid: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain values, for the record's file."""
        return asdict(self) | {"spec": self.spec.as_json(), "state": self.state.name}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunRecord:
        """Raises TypeError, KeyError or ValueError for what `as_json` did not write."""
        spec = RunSpec.from_json(values["spec"])
        return cls(**{**values, "spec": spec, "state": RunState[values["state"]]})
