"""The agent of a job: `python -m trainer_service.job RUN_FOLDER SERVICE_PID PROCESSES`.

The agent is torchrun's own (`torch.distributed.launcher`), with a rendezvous on loopback and
without restarts, which the service decides. Workers are forked from it, so that torch is imported
once for all of them; whatever has threads or pools of its own (gRPC, BLAKE3) is imported after.
What went wrong with a process that could not say so itself is told here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from trainer_service.job import rendezvous
from trainer_service.job.lifeline import die_with
from trainer_service.report import JobReport, Phase

MONITOR_S = 0.1


def main(argv: Sequence[str]) -> int:
    """Runs the job of the run in `argv[0]` to its end; returns the exit code."""
    die_with(int(argv[1]))
    # Workers lose 0 and 1 to multiprocessing and to what a user's code prints: these stay ours.
    commands, reports = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    try:
        elastic_launch(_config(int(argv[2])), _work)(argv[0], os.getpid(), commands, reports)
    except ChildFailedError as error:
        os.write(reports, _last_word(error).as_line())
        return 1
    return 0


def _work(folder: str, agent: int, commands: int, reports: int) -> None:
    from trainer_service.job.worker import work

    work(folder, agent, commands, reports)


def _config(processes: int) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend=rendezvous.register(),
        local_addr=rendezvous.HOST,
        run_id="job",
        max_restarts=0,
        monitor_interval=MONITOR_S,
        start_method="fork",
    )


def _last_word(error: ChildFailedError) -> JobReport:
    """Names the signal that ended a worker; a worker that exited has given its reason itself."""
    rank, failure = error.get_first_failure()
    if failure.exitcode >= 0:
        return JobReport(Phase.FAILED)
    return JobReport(
        Phase.FAILED, error=f"rank {rank} (process {failure.pid}) died of {failure.signal_name()}"
    )


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    # Not sys.exit: taking torch apart takes a second, and nothing is left to do.
    os._exit(code)
