"""The record of a run: one JSON object a line, one file a process, all on one clock.

Every line has `kind`, `at` (seconds of the machine's monotonic clock, which its processes share)
and `time` (wall clock, for a person). The kinds and what else they hold:

    call         a request: seed, rows, timeout_s, ended, code, reason, message, version, digest,
                 echoed (its id came back), lag_s (how late the client's own timers fired then)
    publication  publisher, epoch, seed, ended, acknowledged, version, code, reason, message
    epoch        publisher, epoch: acquired, and every older one fenced from here on
    stored       version, seed, whole: found in the store at the end; seed -1 must never be served
    channel      version, revision, epoch, held: as a reader of the store saw it
    serving      replica, version, age_s: as `headrace status` showed it
    endpoints    states by address, queued, inflight: as the gateway saw it
    status       text: what `headrace status` printed
    log          process, text: a line of its log at warning or above
    sample       process, memory_bytes, descriptors, threads, waited_s (since its start,
                 the time that its threads were ready to run and had no core)
    fault        phase ("begin" or "clear"), what
    replica      address, up, cause ("killed", "stopped", ""): told before a fault and after its end
    rollback     version: an operator moved the channel back
    wiped        from here on the store began anew: the fault destroyed what it held
    failover     lost_since: another server took over; what was acknowledged from that moment on may
                 be lost, 0 where nothing may
    collected    versions: a collector removed them
    pin          version: every replica was told to serve it and did; 0: to follow the channel again
    expect       where ("status" or "log"), text (a pattern), within_s: must show from here on
    phase        name: "baseline", "fault", "proof", "end"
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Line = dict[str, Any]


class Recorder:
    """Appends lines to one file of a record; whole lines, whoever is killed. Thread-safe."""

    def __init__(self, directory: Path, name: str) -> None:
        # Unbuffered and one write a line: SIGKILL of this process leaves no half of one.
        self._file = (directory / f"{name}.jsonl").open("ab", buffering=0)
        self._lock = threading.Lock()

    def write(self, kind: str, *, at: float | None = None, **fields: object) -> float:
        """Adds a line; returns its `at`."""
        then = time.monotonic() if at is None else at
        line = {"kind": kind, "at": then, "time": time.time(), **fields}
        with self._lock:
            self._file.write(json.dumps(line).encode() + b"\n")
        return then

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Record:
    """Every line of a record, in order of `at`."""

    def __init__(self, lines: list[Line]) -> None:
        self.lines = sorted(lines, key=lambda line: line["at"])
        self._by_kind: dict[str, list[Line]] = {}
        for line in self.lines:
            self._by_kind.setdefault(line["kind"], []).append(line)

    @classmethod
    def read(cls, directory: Path) -> Record:
        """All files of a directory. Raises ValueError where it holds none."""
        files = sorted(directory.glob("*.jsonl"))
        if not files:
            raise ValueError(f"{directory} holds no record: expected *.jsonl files")
        return cls([line for file in files for line in _lines(file)])

    def of(self, kind: str) -> list[Line]:
        """Lines of one kind, in order."""
        return self._by_kind.get(kind, [])

    def phase(self, name: str) -> float | None:
        """When a phase began."""
        return next((line["at"] for line in self.of("phase") if line["name"] == name), None)


def _lines(file: Path) -> Iterator[Line]:
    for text in file.read_text().splitlines():
        yield json.loads(text)
