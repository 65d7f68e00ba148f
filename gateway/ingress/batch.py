"""A batch: requests of one queue whose rows travel together, and how their answer is cut apart.

Inputs are joined once, in order; outputs are cut at the same rows. A batch outlives failed
attempts: sent again, it carries the same bytes. Requests that end while it is under way (expired,
cancelled) are left out of the answer, never out of the tensors.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chassis.errors import DeadlineExceeded, HeadraceError
from chassis.infer import infer_reply, split_rows
from chassis.padding import Padder, cut, padder_of
from chassis.provenance import Provenance
from chassis.tensors import TensorSpec
from gateway.ingress.request import Request
from gateway.policy.lane import QueueKey
from gateway.statistics import Ledger
from protos.inference import grpc_service_pb2 as oip

# Seconds that a slow endpoint has for a sample.
SAMPLE_S = 5.0
# name, datatype, shape, raw bytes
Tensor = tuple[str, str, tuple[int, ...], bytes]
Part = tuple[TensorSpec, tuple[int, ...], bytes]
# The outputs that callers got, those of a copy, rows.
Compare = Callable[[Sequence["Part"], Sequence["Part"], int], None]
MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class BatchReply:
    """A replica's answer, checked: `outputs` follow the signature, each with all rows first.

    `version` is the one that computed it, as the replica names it; `infer_s` is the span between
    sending and answer; `provenance` is what ours tell of the weights, None from other servers.
    """

    version: str
    outputs: Sequence[Part]
    infer_s: float
    provenance: Provenance | None = None


class Batch:
    """Requests joined; `rows` in all, `deadline` the earliest, `last_deadline` the latest.

    `pinned` is the version it must run on, 0 for any; `carried` are the parameters that a replica
    must see; `step` is its place in a sequence, as replicas are told it. `blamed`: a rollout's
    candidate failed it, and it is to be seen whether another version does too.
    """

    __slots__ = (
        "_join_ns",
        "_ledger",
        "_requests",
        "blamed",
        "carried",
        "key",
        "model",
        "pinned",
        "priority",
        "rows",
        "step",
        "taken_at",
        "tensors",
    )

    def __init__(self, requests: list[Request], ledger: Ledger, *, now: float) -> None:
        started_ns = time.perf_counter_ns()
        first = requests[0]
        self.key: QueueKey = first.key
        self.model = first.model
        self.pinned = first.version
        self.carried = first.carried
        self.step = first.wire_step
        self.priority = min(request.priority for request in requests)
        self.rows = sum(request.rows for request in requests)
        self.tensors = _joined(requests, self.rows)
        self.taken_at = now
        self._requests = requests
        self.blamed = False
        self._ledger = ledger
        self._join_ns = time.perf_counter_ns() - started_ns

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def done(self) -> bool:
        """True once every request has ended."""
        return all(request.answered for request in self._requests)

    @property
    def arrived_at(self) -> float:
        """When the oldest request came."""
        return min(request.arrived_at for request in self._requests)

    @property
    def deadline(self) -> float:
        """The earliest deadline of a request that waits; infinite once all have ended."""
        waiting = (request.deadline for request in self._requests if not request.answered)
        return min(waiting, default=float("inf"))

    @property
    def last_deadline(self) -> float:
        """The latest deadline: after it nobody wants the answer."""
        return max(request.deadline for request in self._requests)

    def complete(self, reply: BatchReply, now: float) -> None:
        """Gives each request that still waits its rows.

        Raises InvalidArgument (BAD_BYTE_COUNT) before any is answered if the bytes do not divide.
        """
        started_ns = time.perf_counter_ns()
        columns = self._columns(reply)
        answered = []
        for index, request in enumerate(self._requests):
            if request.answered:
                continue
            try:
                parts = [column[index] for column in columns]
                message = reply_to(request, reply, parts)
            except HeadraceError as error:
                # Its region of shared memory is gone or too small: its own fault, nobody else's.
                fail_all([request], error, self._ledger, now)
            else:
                request.answer.set_result(message)
                answered.append(request)
        self._ledger.on_answered(
            self.key.model,
            reply.version,
            answered,
            batch_rows=self.rows,
            taken_at=self.taken_at,
            now=now,
            join_ns=self._join_ns,
            infer_s=reply.infer_s,
            split_ns=time.perf_counter_ns() - started_ns,
        )

    def fail(self, error: HeadraceError, now: float) -> None:
        """Gives each request that still waits the status."""
        fail_all(self._requests, error, self._ledger, now)

    def expire(self, now: float) -> int:
        """Ends the requests whose deadline has passed; how many."""
        late = [
            request
            for request in self._requests
            if request.deadline <= now and not request.answered
        ]
        fail_all(late, expired(), self._ledger, now)
        return len(late)

    def split(self) -> list[Batch]:
        """Each request that still waits, in a batch of its own."""
        waiting = (request for request in self._requests if not request.answered)
        # Without blame: the version beside the candidate failed the whole batch too.
        return [Batch([request], self._ledger, now=self.taken_at) for request in waiting]

    def leave_candidate(self, *, blamed: bool) -> None:
        """From now on any version may answer."""
        self.pinned = 0
        self.blamed = self.blamed or blamed
        for request in self._requests:
            request.version = 0

    def waits_ms(self, now: float) -> list[float]:
        """Milliseconds since each request came that is not answered yet."""
        return [
            (now - request.arrived_at) * MILLISECONDS
            for request in self._requests
            if not request.answered
        ]

    def shadow(self, version: int, reply: BatchReply, compare: Compare, now: float) -> Shadow:
        """A copy of it for `version`, whose answer `compare` gets together with this one's."""
        return Shadow(self, version, reply, compare, now)

    def sample(self) -> Sample:
        """A copy of the first request, which nobody waits for."""
        return Sample([self._requests[0]], self._ledger, now=self.taken_at)

    def _columns(self, reply: BatchReply) -> list[list[Part]]:
        """By output, then by request."""
        if len(self._requests) == 1:
            return [[output] for output in reply.outputs]
        rows = [request.rows for request in self._requests]
        columns = []
        for spec, shape, raw in reply.outputs:
            parts = split_rows(raw, spec.datatype, rows, name=spec.name)
            row_shape = shape[1:]
            columns.append(
                [(spec, (count, *row_shape), part) for count, part in zip(rows, parts, strict=True)]
            )
        return columns


class Sample(Batch):
    """A copy of a request, sent to learn how fast an endpoint is; nobody waits for its answer."""

    __slots__ = ()

    def __init__(self, requests: list[Request], ledger: Ledger, *, now: float) -> None:
        super().__init__(requests, ledger, now=now)
        self._requests = []

    @property
    def last_deadline(self) -> float:
        """So long an answer would tell something."""
        return self.taken_at + SAMPLE_S

    def complete(self, reply: BatchReply, now: float) -> None:
        """The answer is thrown away: the caller got one from elsewhere."""


class Shadow(Sample):
    """A copy of an answered batch for a rollout's candidate; both outputs are compared."""

    __slots__ = ("_compare", "_reply")

    def __init__(
        self, batch: Batch, version: int, reply: BatchReply, compare: Compare, now: float
    ) -> None:
        # The tensors are shared: they are joined already, and never written to.
        self.key = batch.key._replace(version=version, candidate=True)
        self.model = batch.model
        self.pinned = version
        self.carried = batch.carried
        self.step = None
        self.priority = batch.priority
        self.rows = batch.rows
        self.tensors = batch.tensors
        self.taken_at = now
        self.blamed = False
        self._requests = []
        self._ledger = batch._ledger
        self._join_ns = 0
        self._reply = reply
        self._compare = compare

    def complete(self, reply: BatchReply, now: float) -> None:
        """Both answers are compared."""
        rows = self.rows if self.key.max_rows else 1
        self._compare(self._reply.outputs, reply.outputs, rows)


def reply_to(
    request: Request, reply: BatchReply, outputs: Sequence[Part]
) -> oip.ModelInferResponse:
    """What the caller gets of a replica's reply: these of its outputs, none for an empty reply.

    They follow the signature; what its padding added is cut off. Raises what `infer_reply` raises.
    """
    wanted = [outputs[at] for at in request.wanted] if outputs else []
    if request.cuts and outputs:
        for index, at in enumerate(request.wanted):
            if at in request.cuts:
                spec, shape, raw = wanted[index]
                wanted[index] = (spec, *cut(spec, shape, raw, request.cuts[at]))
    return infer_reply(
        model=request.key.model,
        version=reply.version,
        request_id=request.id,
        outputs=wanted,
        typed=request.typed,
        forms=request.forms if outputs else (),
        provenance=reply.provenance,
    )


def expired() -> DeadlineExceeded:
    """The status of a request whose deadline passed."""
    return DeadlineExceeded("DEADLINE_EXCEEDED", "the deadline passed before the answer was there")


def fail_all(requests: Sequence[Request], error: HeadraceError, ledger: Ledger, now: float) -> None:
    """Ends those that still wait with `error`."""
    failed = [request for request in requests if not request.answered]
    for request in failed:
        # Its own copy: raising one exception in several tasks would grow one traceback.
        request.answer.set_exception(copy.copy(error))
    if failed:
        ledger.on_failed(failed[0].key.model, failed, error.code.name, now=now)


def _joined(requests: list[Request], rows: int) -> list[Tensor]:
    first = requests[0]
    signature = first.model.signature
    padder = padder_of(signature) if signature.padding else None
    if padder is not None:
        return _padded(requests, rows, padder)
    if len(requests) == 1:
        return [
            (spec.name, spec.datatype, shape, raw)
            for spec, shape, raw in zip(signature.inputs, first.shapes, first.raw, strict=True)
        ]
    return [
        (
            spec.name,
            spec.datatype,
            (rows, *first.shapes[at][1:]),
            b"".join([request.raw[at] for request in requests]),
        )
        for at, spec in enumerate(signature.inputs)
    ]


def _padded(requests: list[Request], rows: int, padder: Padder) -> list[Tensor]:
    first = requests[0]
    batches = bool(first.model.signature.max_batch_size)
    counts = tuple(request.rows for request in requests) if batches else ()
    tensors: list[Tensor] = []
    for at, spec in enumerate(first.model.signature.inputs):
        shape = (rows, *first.padded[at][1:]) if batches else first.padded[at]
        parts = [(request.raw[at], request.shapes[at]) for request in requests]
        tensors.append((spec.name, spec.datatype, shape, padder.joined(at, parts, counts, shape)))
    return tensors
