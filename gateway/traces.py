"""What a trace tells of a request at the gateway: from its arrival to its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from chassis.tracing import Tracing


class Traced(Protocol):
    """What a trace names of a request."""

    @property
    def id(self) -> str:
        """As its caller gave it."""

    @property
    def arrived_at(self) -> float:
        """When it came, on the monotonic clock."""

    @property
    def queued_at(self) -> float:
        """When it was read, checked and began to wait."""


def trace_answered(
    tracing: Tracing,
    model: str,
    version: str,
    requests: Sequence[Traced],
    *,
    batch_rows: int,
    taken_at: float,
    infer_s: float,
    now: float,
    split_s: float,
) -> None:
    """Writes those requests of an answered batch that are to be traced.

    `infer_s` is the span from sending the batch to its answer, which came at `now`.
    """
    for request in requests:
        if tracing.take(model):
            stages = {
                "received": request.arrived_at,
                "queued": request.queued_at,
                "dispatched": taken_at,
                "compute_start": max(taken_at, now - infer_s),
                "compute_end": now,
                "answered": now + split_s,
            }
            tracing.write(model, request.id, stages, version=version, rows=batch_rows)


def trace_failed(
    tracing: Tracing, model: str, requests: Sequence[Traced], status: str, *, now: float
) -> None:
    """Writes those that ended with `status`, the name of a gRPC code, and are to be traced."""
    for request in requests:
        if tracing.take(model):
            stages = {
                "received": request.arrived_at,
                "queued": request.queued_at,
                "answered": now,
            }
            tracing.write(model, request.id, stages, status=status)
