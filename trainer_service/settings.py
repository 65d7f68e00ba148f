"""What an operator can set on the trainer service."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from chassis.protection import ProtectedSettings


class TrainerSettings(ProtectedSettings):
    """Section `trainer`."""

    section: ClassVar[str] = "trainer"

    # Loopback by default: whoever reaches the port may start processes.
    host: str = "127.0.0.1"
    # 0 picks a free port; the "serving" log line tells which.
    port: int = Field(8021, ge=0, le=65535)
    # Records of runs, logs and checkpoints; one service at a time.
    state_dir: Path = Path("var/trainer")
    # Prometheus port; 0 picks a free one, -1 serves no metrics.
    metrics_port: int = Field(-1, ge=-1, le=65535)
    # Times that a job is started again without getting any further.
    max_restarts: int = Field(5, ge=0)
    # Seconds that a job gets for its last checkpoint when it is asked to end.
    drain_s: float = Field(20.0, ge=0)
    # Runs that may have a job at once; beyond, RESOURCE_EXHAUSTED.
    max_jobs: int = Field(16, ge=1)
    # torch's threads in each process of a job; 0 leaves torch's choice (all cores for a lone
    # process, 1 for each of several).
    threads: int = Field(0, ge=0)
    # File of the private key that signs every version of every run; none signs nothing.
    signing_key: Path | None = None
