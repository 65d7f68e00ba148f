"""One call as a servicer sees it, whichever protocol carried it.

Who asks, what that allows and how long the answer is wanted; the edge of each protocol makes it,
through `chassis.guard` where anything is guarded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chassis.errors import PermissionDenied

# Ends what `Call.enter` began; called once.
Leave = Callable[[], None]
# Lets a message of so many bytes in; see `Call.enter`.
Enter = Callable[[Any, int], Leave]


# Replies that list models: their field of entries, each with a `name`.
_LISTS = {
    "inference.RepositoryIndexResponse": "models",
    "inference.ModelStatisticsResponse": "model_stats",
}


def no_deadline() -> float | None:
    """The time that a caller without a deadline leaves."""
    return None


def nothing() -> None:
    """The `Leave` of a call that nothing guards."""


def _keep(entries: Any, allowed: Callable[[str], bool]) -> None:
    """Keeps the entries whose name is allowed."""
    for index in reversed(range(len(entries))):
        if not allowed(entries[index].name):
            del entries[index]


class Call:
    """`identity` is the caller's name, "" where nobody is asked for one.

    `control` tells whether the call may change the server: load and unload models, set tracing and
    logs, register memory. `message_bytes` is the size of the message read last, as it travelled.
    """

    __slots__ = ("_enter", "_may_use", "control", "identity", "message_bytes", "time_remaining")

    def __init__(
        self,
        identity: str = "",
        *,
        control: bool = False,
        time_remaining: Callable[[], float | None] = no_deadline,
        enter: Enter | None = None,
        may_use: Callable[[str], bool] | None = None,
    ) -> None:
        self.identity = identity
        self.control = control
        # Seconds that the caller's deadline leaves; None without one.
        self.time_remaining = time_remaining
        self.message_bytes = 0
        self._enter = enter
        self._may_use = may_use

    def enter(self, message: Any) -> Leave:
        """Counts one message of the call against its identity; call what it returns at the end.

        The edge does so for a call with one request. In a stream the servicer does, for each
        message right after reading it (`message_bytes` is the newest one's), answers a refusal in
        the stream, and leaves when the message's last answer has been taken or its caller is gone.
        Raises ResourceExhausted (QUOTA_REQUESTS, QUOTA_BYTES, QUOTA_CONCURRENCY; `retry_after_s`
        tells when to ask again) or PermissionDenied (MODEL_NOT_ALLOWED).
        """
        return nothing if self._enter is None else self._enter(message, self.message_bytes)

    def may_use(self, model: str) -> bool:
        """Whether the identity may ask for the model, and so may be told that it exists."""
        return self._may_use is None or self._may_use(model)

    def shown(self, reply: Any) -> Any:
        """The reply without entries of models that are not the identity's to know of.

        The edge does so for every unary reply; only lists of models have such entries.
        """
        if self._may_use is not None:
            field = _LISTS.get(reply.DESCRIPTOR.full_name)
            if field is not None:
                _keep(getattr(reply, field), self._may_use)
        return reply

    def require_control(self, what: str) -> None:
        """`what` is what the call would do. Raises PermissionDenied (CONTROL_NOT_ALLOWED)."""
        if not self.control:
            raise PermissionDenied(
                "CONTROL_NOT_ALLOWED",
                f"{what} is not allowed here: ask on the admin port, or as an identity that may "
                "control the server",
            )
