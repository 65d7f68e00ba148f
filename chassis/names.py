"""The one grammar of names: models, channels, runs, replicas."""

from __future__ import annotations

import re

from chassis.errors import InvalidArgument

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


def checked_name(name: str, *, what: str) -> str:
    """Returns `name` if it follows the grammar; `what` names its role in the error.

    Raises InvalidArgument (BAD_NAME).
    """
    if NAME.fullmatch(name):
        return name
    shown = name if len(name) <= 40 else name[:40] + "..."
    raise InvalidArgument(
        "BAD_NAME",
        f"{what} {shown!r} is not a valid name: expected 1 to 128 of A-Z a-z 0-9 . _ -, "
        "starting with a letter or a digit",
        field=what,
    )
