"""One call as a servicer sees it, whichever protocol carried it.

Who asks, what that allows and how long the answer is wanted; the edge of each protocol makes it.
"""

from __future__ import annotations

from collections.abc import Callable

from chassis.errors import PermissionDenied


def _no_deadline() -> float | None:
    return None


class Call:
    """`identity` is the caller's name, "" where nobody is asked for one.

    `control` tells whether the call may change the server: load and unload models, set tracing and
    logs, register memory.
    """

    __slots__ = ("control", "identity", "time_remaining")

    def __init__(
        self,
        identity: str = "",
        *,
        control: bool = False,
        time_remaining: Callable[[], float | None] = _no_deadline,
    ) -> None:
        self.identity = identity
        self.control = control
        # Seconds that the caller's deadline leaves; None without one.
        self.time_remaining = time_remaining

    def require_control(self, what: str) -> None:
        """`what` is what the call would do. Raises PermissionDenied (CONTROL_NOT_ALLOWED)."""
        if not self.control:
            raise PermissionDenied(
                "CONTROL_NOT_ALLOWED",
                f"{what} is not allowed here: ask on the admin port, or as an identity that may "
                "control the server",
            )
