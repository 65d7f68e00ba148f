"""Named places where a test makes a process die, fail or wait; inert unless armed.

`HEADRACE_FAILPOINTS="publish.after_manifest=kill,load.before_flip=sleep:0.5"` arms them (read by
`chassis.settings.arm_failpoints` at process start). Actions: `kill` (SIGKILL to itself), `error`
(raises Internal FAILPOINT), `sleep:SECONDS`; a suffix `@N` acts at the Nth pass only.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

from chassis.errors import Internal, InvalidArgument


@dataclass
class _Armed:
    action: str
    argument: float
    at_pass: int
    passes: int = 0


_armed: dict[str, _Armed] = {}


def arm(text: str) -> None:
    """Replaces what is armed by `text` (see above); empty disarms all.

    Raises InvalidArgument (BAD_FAILPOINT).
    """
    armed = {}
    for part in filter(None, (item.strip() for item in text.split(","))):
        name, _, rest = part.partition("=")
        rest, _, at_pass = rest.partition("@")
        action, _, argument = rest.partition(":")
        if action not in ("kill", "error", "sleep"):
            raise InvalidArgument(
                "BAD_FAILPOINT",
                f"failpoint {part!r}: expected name=kill, name=error or name=sleep:S",
            )
        armed[name] = _Armed(action, float(argument or 0), int(at_pass or 0))
    _armed.clear()
    _armed.update(armed)


def failpoint(name: str) -> None:
    """Acts if `name` is armed; one truth test where nothing is."""
    if not _armed:
        return
    armed = _armed.get(name)
    if armed is None:
        return
    armed.passes += 1
    if armed.at_pass and armed.passes != armed.at_pass:
        return
    if armed.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif armed.action == "error":
        raise Internal("FAILPOINT", f"failpoint {name} failed on request")
    else:
        time.sleep(armed.argument)
