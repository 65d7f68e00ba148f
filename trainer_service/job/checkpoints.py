"""Checkpoints of a job: written beside, renamed when whole, the newest two kept.

    step-000000000200/   torch.distributed.checkpoint's files; rank<N>.json for what is no tensor

Decides that a checkpoint exists if and only if its directory has its name, and that one which does
not load is passed over for the one before. Never served and never shared: model stores hold what
leaves the trainer.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter

from chassis.errors import DataLoss, InvalidArgument
from chassis.failpoints import failpoint
from chassis.telemetry import logger
from trainer_service.job.learner import Learner
from trainer_service.job.ranks import Ranks
from trainer_service.run_files import replace_file, sync_folder

log = logger(__name__)

KEPT = 2
_PREFIX = "step-"
_UNFINISHED = "unfinished"


class Checkpoints:
    """Those in `folder`, which every rank sees; every method is called by all ranks at once."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self._folder = folder
        self._ranks = ranks

    def save(self, learner: Learner, facts: dict[str, Any]) -> None:
        """Makes a checkpoint at the learner's step, durable when it returns on rank 0."""
        temporary = self._folder / _UNFINISHED
        if self._ranks.first:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(mode=0o700, parents=True)
        self._ranks.wait_for_all()
        with _without_the_advice():
            state_dict_saver.save(
                learner.tensors(),
                storage_writer=FileSystemWriter(temporary),
                no_dist=self._ranks.world == 1,
            )
        own = json.dumps(learner.facts() | {"facts": facts}).encode()
        replace_file(temporary / f"rank{self._ranks.rank}.json", own)
        self._ranks.wait_for_all()
        if self._ranks.first:
            self._finish(temporary, learner.step)

    def _finish(self, temporary: Path, step: int) -> None:
        failpoint("checkpoint.before_rename")
        final = self._folder / f"{_PREFIX}{step:012d}"
        # A run that was resumed from before this step comes here again.
        shutil.rmtree(final, ignore_errors=True)
        temporary.replace(final)
        sync_folder(self._folder)
        failpoint("checkpoint.after_rename")
        for old in self._complete()[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)

    def restore(self, learner: Learner) -> dict[str, Any]:
        """Puts the learner where the newest whole checkpoint left it; returns that one's facts.

        Without any checkpoint the learner stays as it is and the facts are empty.
        Raises InvalidArgument (CHECKPOINT_MISMATCH) where the model's tensors have changed,
        DataLoss (CHECKPOINTS_DAMAGED) where there are checkpoints and none of them loads.
        """
        found = self._complete()
        for folder in found:
            try:
                own = self._own_facts(folder)
                if self._ranks.all_agree(own is not None) and own is not None:
                    self._restore(folder, learner)
                    learner.take_facts(own)
                    facts: dict[str, Any] = own["facts"]
                    return facts
            except (CheckpointException, OSError, EOFError, KeyError, RuntimeError) as error:
                log.error("a checkpoint does not load", name=folder.name, why=repr(error)[:500])
        if found:
            # Half of one may be in the learner by now.
            raise DataLoss("CHECKPOINTS_DAMAGED", "none of the run's checkpoints can be read")
        return {}

    def _own_facts(self, folder: Path) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(
                (folder / f"rank{self._ranks.rank}.json").read_bytes()
            )
        except (OSError, ValueError) as error:
            log.error("a checkpoint does not load", name=folder.name, why=repr(error)[:500])
            return None
        return found

    def _restore(self, folder: Path, learner: Learner) -> None:
        reader = FileSystemReader(folder)
        tensors = learner.tensors()
        stored = reader.read_metadata().state_dict_metadata
        missing = [name for name in tensors["model"] if f"model.{name}" not in stored]
        if missing:
            raise InvalidArgument(
                "CHECKPOINT_MISMATCH",
                f"the run's checkpoint lacks tensor {missing[0]!r} of the model, which has changed "
                "since; start another run",
            )
        with _without_the_advice():
            state_dict_loader.load(
                tensors,
                storage_reader=reader,
                # A parameter that never had a gradient has no optimizer state in the checkpoint.
                planner=DefaultLoadPlanner(allow_partial_load=True),
                no_dist=self._ranks.world == 1,
            )
        learner.take_tensors(tensors)

    def _complete(self) -> list[Path]:
        """Newest first."""
        return sorted(self._folder.glob(f"{_PREFIX}*"), reverse=True)


@contextmanager
def _without_the_advice() -> Iterator[None]:
    # torch warns of a lone process even where no_dist says that it is one.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
