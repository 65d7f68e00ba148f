"""What ModelStatistics and the admin status report: counters that only grow.

Counted per batch, by the version that answered. A request that failed was answered by none and is
counted to the newest version seen. Of each model the newest versions are kept; with a publication
every few seconds the older ones would fill the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from chassis.clock import wall_time_ms
from chassis.tracing import Tracing
from gateway import metrics
from gateway.traces import Traced, trace_answered, trace_failed

KEPT_VERSIONS = 64
NANOSECONDS = 1_000_000_000


class Ended(Traced, Protocol):
    """What is counted of a request."""


@dataclass(slots=True)
class BatchSizeCounters:
    """Executions of one batch size, and their nanoseconds."""

    executions: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0


@dataclass(slots=True)
class VersionCounters:
    """One version of a model; a batch's nanoseconds count once per request in it."""

    succeeded: int = 0
    success_ns: int = 0
    failed: int = 0
    fail_ns: int = 0
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    rows: int = 0
    executions: int = 0
    last_inference_time_ms: int = 0
    by_rows: dict[int, BatchSizeCounters] = field(default_factory=dict)


@dataclass(slots=True)
class ModelCounters:
    """A model over all its versions since the process began."""

    succeeded: int = 0
    failed: int = 0
    rejected: int = 0
    batches: int = 0
    rows: int = 0
    retries: int = 0
    versions: dict[str, VersionCounters] = field(default_factory=dict)


class Ledger:
    """Takes in how requests ended; owned by the event loop."""

    def __init__(self, tracing: Tracing | None = None) -> None:
        self._models: dict[str, ModelCounters] = {}
        self._tracing = tracing or Tracing("gateway")

    def of(self, model: str) -> ModelCounters:
        """The model's counters; callers pass known models only."""
        counters = self._models.get(model)
        if counters is None:
            counters = self._models[model] = ModelCounters()
        return counters

    def on_answered(
        self,
        model: str,
        version: str,
        requests: Sequence[Ended],
        *,
        batch_rows: int,
        taken_at: float,
        now: float,
        join_ns: int,
        infer_s: float,
        split_ns: int,
    ) -> None:
        """A batch was answered by `version`; `requests` are those that got their rows."""
        count = len(requests)
        arrived = sum([request.arrived_at for request in requests])
        infer_ns = int(infer_s * NANOSECONDS)
        counters = self.of(model)
        counters.succeeded += count
        entry = _entry(counters, version)
        entry.succeeded += count
        entry.success_ns += int((count * now - arrived) * NANOSECONDS)
        entry.queue_ns += int((count * taken_at - arrived) * NANOSECONDS)
        entry.input_ns += count * join_ns
        entry.infer_ns += count * infer_ns
        entry.output_ns += count * split_ns
        entry.rows += batch_rows
        entry.executions += 1
        entry.last_inference_time_ms = wall_time_ms()
        size = entry.by_rows.setdefault(batch_rows, BatchSizeCounters())
        size.executions += 1
        size.input_ns += join_ns
        size.infer_ns += infer_ns
        size.output_ns += split_ns
        metrics.REQUESTS.labels(model, "OK").inc(count)
        if self._tracing.on:
            trace_answered(
                self._tracing,
                model,
                version,
                requests,
                batch_rows=batch_rows,
                taken_at=taken_at,
                infer_s=infer_s,
                now=now,
                split_s=split_ns / NANOSECONDS,
            )

    def on_failed(self, model: str, requests: Sequence[Ended], status: str, *, now: float) -> None:
        """Requests ended with `status`, the name of a gRPC code."""
        count = len(requests)
        counters = self.of(model)
        counters.failed += count
        entry = _newest(counters)
        entry.failed += count
        arrived = sum([request.arrived_at for request in requests])
        entry.fail_ns += max(0, int((count * now - arrived) * NANOSECONDS))
        metrics.REQUESTS.labels(model, status).inc(count)
        if self._tracing.on:
            trace_failed(self._tracing, model, requests, status, now=now)

    def on_rejected(self, model: str, reason: str) -> None:
        """A request was refused at admission; its failure is counted besides."""
        self.of(model).rejected += 1
        metrics.REJECTS.labels(model, reason).inc()

    def on_refused(self, model: str, status: str) -> None:
        """A request ended before it waited: its input is wrong, or it was not admitted."""
        counters = self.of(model)
        counters.failed += 1
        _newest(counters).failed += 1
        metrics.REQUESTS.labels(model, status).inc()

    def on_sent(self, model: str, rows: int, *, retry: bool) -> None:
        """A batch went to an endpoint."""
        counters = self.of(model)
        counters.batches += 1
        counters.rows += rows
        counters.retries += retry

    def models(self) -> dict[str, ModelCounters]:
        """Counters by model; read only."""
        return self._models


def _entry(counters: ModelCounters, version: str) -> VersionCounters:
    versions = counters.versions
    entry = versions.get(version)
    if entry is None:
        entry = versions[version] = VersionCounters()
        if len(versions) > KEPT_VERSIONS:
            del versions[next(iter(versions))]
    return entry


def _newest(counters: ModelCounters) -> VersionCounters:
    return _entry(counters, next(reversed(counters.versions), ""))
