"""The service's directory: one folder a run, with its record, its job's log and checkpoints.

    lock                     held by the service that owns the directory
    runs/<run_id>/run.json   the record, replaced whole
    runs/<run_id>/job.log    what the job printed; job.log.1 is its predecessor's
    runs/<run_id>/checkpoints

Decides how a record survives a crash. Blocking; the service calls it from threads.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO

from chassis.errors import FailedPrecondition
from chassis.telemetry import logger
from trainer_service.record import RunRecord

log = logger(__name__)

RECORD = "run.json"
JOB_LOG = "job.log"
CHECKPOINTS = "checkpoints"
_TAIL_BYTES = 8192


class RunFiles:
    """`state_dir` is made if it is not there, for this user only."""

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir.absolute()
        self._lock: IO[bytes] | None = None

    def claim(self) -> None:
        """Makes this process the directory's owner until it ends.

        Raises FailedPrecondition (STATE_DIR_IN_USE).
        """
        (self._root / "runs").mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = (self._root / "lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise FailedPrecondition(
                "STATE_DIR_IN_USE", f"another trainer service uses {self._root}"
            ) from None

    def release(self) -> None:
        """Gives the directory up."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def folder(self, run_id: str) -> Path:
        """Where a run's files are."""
        return self._root / "runs" / run_id

    def write(self, record: RunRecord) -> None:
        """Replaces the record, durably; a reader sees the old one or the new one."""
        folder = self.folder(record.run_id)
        folder.mkdir(mode=0o700, exist_ok=True)
        replace_file(folder / RECORD, json.dumps(record.as_json()).encode())

    def load(self) -> list[RunRecord]:
        """Every record; one that cannot be read is logged and left out."""
        return [
            record
            for path in sorted((self._root / "runs").glob(f"*/{RECORD}"))
            if (record := _readable(path)) is not None
        ]

    def open_job_log(self, run_id: str) -> IO[bytes]:
        """A new job's log; its predecessor's is kept beside it."""
        path = self.folder(run_id) / JOB_LOG
        if path.exists():
            path.replace(path.with_name(f"{JOB_LOG}.1"))
        return path.open("wb")

    def last_words(self, run_id: str) -> str:
        """The last line that the job printed on standard error; empty if none."""
        try:
            with (self.folder(run_id) / JOB_LOG).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1].strip()[:500] if lines else ""


def read_record(folder: Path) -> RunRecord:
    """The record in a run's folder, as its job reads it.

    Raises OSError, ValueError, TypeError or KeyError where it is missing or damaged.
    """
    return RunRecord.from_json(json.loads((folder / RECORD).read_bytes()))


def _readable(path: Path) -> RunRecord | None:
    try:
        return read_record(path.parent)
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.error("a run's record cannot be read", run_id=path.parent.name, why=repr(error))
        return None


def replace_file(final: Path, content: bytes) -> None:
    """Makes `final` hold `content`: whole or not at all, durable when it returns."""
    temporary = final.with_name(f".{final.name}.new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(final)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
