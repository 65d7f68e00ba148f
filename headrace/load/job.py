"""What a load process is told and what it tells: JSON lines, and requests as raw bytes.

The parent writes the job, the bodies of the requests, then {"start_at": a moment of the machine's
monotonic clock} and perhaps {"stop": true}; the end of its output stops too. A process writes
{"ready": true} or {"failed": {"reason", "message"}}, {"progress": ...} as it goes, and at its end
{"part": ...}. Both are the same program, so nothing carries a version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from headrace.load.latencies import Latencies
from headrace.load.messages import Bodies
from headrace.load.plan import LoadPlan
from headrace.load.tally import Tally


@dataclass(frozen=True, slots=True)
class Job:
    """One process's part of a plan."""

    plan: LoadPlan
    # From 0; of `plan.processes`.
    part: int
    # Bytes of each body, by rows.
    body_bytes: Mapping[int, tuple[int, ...]]

    @property
    def most_out(self) -> int:
        """How many requests the process may have under way: its share of the plan's bound."""
        share, rest = divmod(self.plan.max_outstanding, self.plan.processes)
        return share + (self.part < rest)

    @property
    def total_bytes(self) -> int:
        """Of all bodies, which follow the job."""
        return sum(sum(sizes) for sizes in self.body_bytes.values())

    def line(self) -> bytes:
        """The job as the process reads it."""
        return _JOB.dump_json(self) + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> Job:
        """What `line` wrote."""
        return _JOB.validate_json(line)

    def bodies(self, content: bytes) -> Bodies:
        """The bodies in the bytes that follow the job."""
        found: dict[int, tuple[bytes, ...]] = {}
        at = 0
        for rows, sizes in self.body_bytes.items():
            some = []
            for size in sizes:
                some.append(content[at : at + size])
                at += size
            found[rows] = tuple(some)
        return Bodies(found)


_JOB = TypeAdapter(Job)


def jobs_of(plan: LoadPlan, bodies: Bodies) -> list[Job]:
    """The jobs of all processes; the arrays of the plan have become bodies."""
    sizes = {rows: tuple(map(len, some)) for rows, some in bodies.of_rows.items()}
    bare = replace(plan, inputs={})
    return [Job(bare, part, sizes) for part in range(plan.processes)]


def content_of(bodies: Bodies) -> bytes:
    """The bytes that follow a job."""
    return b"".join(body for some in bodies.of_rows.values() for body in some)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a process is; counts are of the whole load so far, warm-up included."""

    offered: int = 0
    answered: int = 0
    good: int = 0
    failed: int = 0
    not_sent: int = 0
    outstanding: int = 0
    # Latencies since the process's last report, in microseconds, as `tally.packed` writes them.
    newest_us: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """What one process measured."""

    # By index of class and tenant.
    tallies: Mapping[tuple[int, int], Tally]
    lag: Latencies
    # Processor time from the first to the last request, warm-up included, and those requests.
    cpu_s: float
    requests: int
    # Whether it was stopped before its schedule was at its end.
    stopped: bool

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "tallies": [[*cell, tally.record()] for cell, tally in self.tallies.items()],
            "lag": self.lag.encoded(),
            "cpu_s": self.cpu_s,
            "requests": self.requests,
            "stopped": self.stopped,
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Part:
        """What `record` wrote."""
        return cls(
            {(kind, tenant): Tally.of_record(tally) for kind, tenant, tally in record["tallies"]},
            Latencies(record["lag"]),
            record["cpu_s"],
            record["requests"],
            record["stopped"],
        )
