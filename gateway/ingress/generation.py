"""A batch of one decoupled request: any number of responses, in order, before its one end."""

from __future__ import annotations

from collections.abc import Callable

from chassis.errors import HeadraceError
from chassis.provenance import Provenance
from gateway.ingress.answer import Responses
from gateway.ingress.batch import Batch, BatchReply, reply_to
from gateway.ingress.request import Request
from gateway.statistics import Ledger


class Generation(Batch):
    """Made by `Ingress.take` for a queue of decoupled requests; owned by the event loop.

    `complete` is for batches; a generation takes `respond` for each response and `finish`.
    """

    __slots__ = (
        "_closed",
        "_provenance",
        "_request",
        "_responded_at",
        "_responses",
        "responses",
        "version",
    )

    def __init__(
        self, request: Request, responses: Responses, ledger: Ledger, *, now: float
    ) -> None:
        super().__init__([request], ledger, now=now)
        self._request = request
        self._responses = responses
        self._responded_at = now
        # Whether how it ended is counted.
        self._closed = False
        # Responses so far, and the version that computes all of them.
        self.responses = 0
        self.version = ""
        self._provenance: Provenance | None = None

    @property
    def begun(self) -> bool:
        """Whether a response was given: from then on nobody else can answer."""
        return self.responses > 0

    @property
    def full(self) -> bool:
        """Whether the caller has to read before more responses should come."""
        return self._responses.full

    async def wait_room(self) -> None:
        """Returns once it is no longer full."""
        await self._responses.wait_room()

    def call_when_done(self, callback: Callable[[], object]) -> None:
        """`callback` is called once nobody waits for responses any more, whatever the reason."""
        self._request.answer.add_done_callback(lambda _answer: callback())

    def respond(self, reply: BatchReply, now: float) -> None:
        """Gives the caller one response. Does nothing where nobody waits any more."""
        if self.done:
            return
        self.version = reply.version
        index, self.responses = self.responses, self.responses + 1
        since, self._responded_at = self._responded_at, now
        self._provenance = reply.provenance
        self._responses.respond(reply_to(self._request, reply, reply.outputs))
        self._ledger.on_response(self.key.model, reply.version, index, now - since)

    def finish(self, version: str, now: float) -> None:
        """Ends the request: there are no more responses."""
        if self.done:
            return
        self._closed = True
        end = BatchReply(version, (), 0.0, self._provenance)
        self._request.answer.set_result(reply_to(self._request, end, ()))
        model = self.key.model
        if not self.responses:
            self._ledger.on_empty_response(model, version, now - self._responded_at)
        self._ledger.on_answered(
            model,
            version,
            [self._request],
            batch_rows=self.rows,
            taken_at=self.taken_at,
            now=now,
            join_ns=self._join_ns,
            infer_s=now - self.taken_at,
            split_ns=0,
        )

    def fail(self, error: HeadraceError, now: float) -> None:
        """Ends the request with the status."""
        self._miss(now, cancelled=False)
        super().fail(error, now)

    def expire(self, now: float) -> int:
        """Ends the request if its deadline has passed; 1 if it did."""
        if self.deadline <= now:
            self._miss(now, cancelled=False)
        return super().expire(now)

    def leave(self, now: float) -> None:
        """Nobody waits for it: where that is news, its caller went away."""
        self._miss(now, cancelled=True)

    def _miss(self, now: float, *, cancelled: bool) -> None:
        if not self._closed:
            self._closed = True
            span_s = now - self._responded_at
            self._ledger.on_response_missed(
                self.key.model, self.version, self.responses, span_s, cancelled=cancelled
            )
