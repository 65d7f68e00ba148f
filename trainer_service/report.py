"""What a job tells the service: one JSON object a line, each a whole picture of where it is.

A line that is lost or repeated therefore does no harm. The agent's failures travel the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    """Where a job is in its life."""

    STEPPING = "stepping"
    COMPLETED = "completed"
    """Reached max_steps; checkpointed."""
    RELEASED = "released"
    """Ended because it was asked to; checkpointed."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class JobReport:
    """`versions` counts this job's publications; `error` says why it failed or what it lacks.

    `permanent` marks a failure that starting again cannot cure.
    """

    phase: Phase
    pid: int = 0
    step: int = 0
    loss: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    steps_per_s: float = 0.0
    versions: int = 0
    last_version: int = 0
    checkpoint_step: int = 0
    error: str = ""
    permanent: bool = False

    def as_line(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> JobReport:
        """Raises ValueError or TypeError for what `as_line` did not write."""
        values = json.loads(line)
        return cls(**{**values, "phase": Phase(values["phase"])})
