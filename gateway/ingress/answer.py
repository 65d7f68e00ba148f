"""Where the answer of a request goes, as this room sees it.

A caller that waits for one message gives a future; a caller's stream gives a ticket. What a request
ends with is set once: whoever sets it looks at `done` first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from chassis.errors import HeadraceError
from protos.inference import grpc_service_pb2 as oip


class Answer(Protocol):
    """The one end of a request; `asyncio.Future` is one."""

    def done(self) -> bool:
        """True once the request ended, or its caller went away."""

    def set_result(self, reply: oip.ModelInferResponse, /) -> None:
        """Ends the request with its answer."""

    def set_exception(self, error: HeadraceError, /) -> None:
        """Ends the request with a status."""

    def add_done_callback(self, callback: Callable[[Any], object], /) -> None:
        """`callback` is called with the answer, at the end or soon after it."""


class Responses(Answer, Protocol):
    """Takes the responses of one decoupled request; `set_result` ends them, without outputs."""

    def respond(self, reply: oip.ModelInferResponse) -> None:
        """One more response, in order."""

    @property
    def full(self) -> bool:
        """Whether the caller has yet to read so much that no more should come."""

    async def wait_room(self) -> None:
        """Returns once it is no longer full, or the request ended."""
