"""One rank of a job: from the run's folder to a training that runs, and a last word if it fails."""

from __future__ import annotations

import fcntl
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chassis.errors import (
    DataLoss,
    FailedPrecondition,
    HeadraceError,
    InvalidArgument,
    Unimplemented,
)
from chassis.settings import ProcessSettings, arm_failpoints, config_file
from chassis.telemetry import configure_logs
from headrace.model import Model, load_model
from model_store import open_store
from trainer_service.job.checkpoints import Checkpoints
from trainer_service.job.commands import Commands
from trainer_service.job.learner import Learner
from trainer_service.job.lifeline import die_with
from trainer_service.job.ranks import Ranks
from trainer_service.job.release import Release
from trainer_service.job.training import Training
from trainer_service.report import JobReport, Phase
from trainer_service.run_files import CHECKPOINTS, read_record
from trainer_service.settings import TrainerSettings
from trainer_service.spec import RunSpec

# Seconds that a predecessor gets to die after its service has.
LOCK_WITHIN_S = 10.0
_LOCK_POLL_S = 0.05


def work(folder: str, agent: int, commands: int, reports: int) -> None:
    """The worker's main, forked from the agent whose process id is `agent`.

    `commands` and `reports` are descriptors of the pipes from and to the service. Never returns
    from a failure: reports it and exits with code 1.
    """
    die_with(agent)
    try:
        arm_failpoints()
        configure_logs("trainer-job", ProcessSettings.load(config_file(None)))
        _train(Path(folder), commands, reports)
    except BaseException as error:
        traceback.print_exc()
        sys.stderr.flush()
        os.write(reports, failure(error).as_line())
        os._exit(1)


def failure(error: BaseException) -> JobReport:
    """The report of a job that ends by `error`."""
    permanent = isinstance(error, (InvalidArgument, Unimplemented, DataLoss))
    if isinstance(error, HeadraceError):
        sentence = error.message
        permanent = permanent or error.reason == "STALE_EPOCH"
    else:
        first_line = str(error).strip().partition("\n")[0]
        sentence = f"{type(error).__name__}: {first_line}"
    return JobReport(Phase.FAILED, pid=os.getpid(), error=sentence[:1000], permanent=permanent)


def _train(folder: Path, commands: int, reports: int) -> None:
    record = read_record(folder)
    ranks = Ranks(record.spec.processes)
    heard = Commands()
    heard.finish_on_sigterm()
    if ranks.first:
        heard.listen(commands)
        _lock(folder)
    ranks.wait_for_all()
    with _preparing(record.spec.model):
        learner = Learner(_model(record.spec), ranks, seed=record.spec.seed)
    checkpoints = Checkpoints(folder / CHECKPOINTS, ranks)
    facts = checkpoints.restore(learner)
    with open_store(record.spec.store) as store:
        release = None
        if ranks.first:
            release = Release(
                store,
                learner,
                record.spec.publish,
                facts,
                channel=record.spec.channel,
                parent=record.last_version,
                owner=record.run_id,
                signing_key=TrainerSettings.load(config_file(None)).signing_key,
            )
        training = Training(
            record.spec,
            ranks,
            learner,
            checkpoints,
            release,
            commands=heard,
            report=lambda report: _send(reports, report),
        )
        with _preparing(record.spec.model):
            training.begin()
        training.run()
    ranks.leave()


def _send(descriptor: int, report: JobReport) -> None:
    os.write(descriptor, report.as_line())


def _model(spec: RunSpec) -> Model:
    model = load_model(spec.model)
    if spec.publish_as:
        model.name = spec.publish_as
    _ = model.signature
    return model


@contextmanager
def _preparing(path: str) -> Iterator[None]:
    """A Model that fails before its first step fails again, unless files or the network did."""
    try:
        yield
    except (HeadraceError, OSError):
        raise
    except Exception as error:
        raise InvalidArgument(
            "MODEL_FAILED", f"model {path!r} cannot be prepared: {type(error).__name__}: {error}"
        ) from error


def _lock(folder: Path) -> None:
    """Keeps two jobs of one run apart, until this process ends."""
    descriptor = os.open(folder / "job.lock", os.O_RDWR | os.O_CREAT, 0o600)
    give_up_at = time.monotonic() + LOCK_WITHIN_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > give_up_at:
                raise FailedPrecondition(
                    "JOB_RUNS", "another job of the same run does not end"
                ) from None
            time.sleep(_LOCK_POLL_S)
