"""The ties between service, agent and workers: none outlives the one that started it.

Decides that the kernel enforces it: a process asks to be killed when its parent dies. Where the
kernel offers no such thing, rank 0 ends when its pipe from the service does (`job.commands`), and
the agent ends the others.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Ties this process to `parent`, the process id of the one that started it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have died between our start and the call above.
    if os.getppid() != parent:
        os._exit(1)
