"""What ModelStatistics and the admin status report: counters that only grow.

Counted per batch, by the version that answered, whichever replica computed it: a replica that dies
takes nothing with it. A request that failed was answered by none and is counted to the version that
answered last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from chassis.clock import wall_time_ms
from chassis.tracing import Tracing
from gateway import metrics
from gateway.traces import Traced, trace_answered, trace_failed
from gateway.version_counters import BatchSizeCounters, Versions

NANOSECONDS = 1_000_000_000


class Ended(Traced, Protocol):
    """What is counted of a request."""


@dataclass(slots=True)
class ModelCounters:
    """A model over all its versions since the process began."""

    succeeded: int = 0
    failed: int = 0
    rejected: int = 0
    shed: int = 0
    batches: int = 0
    rows: int = 0
    retries: int = 0
    versions: Versions = field(default_factory=Versions)


class Ledger:
    """Takes in how requests ended; owned by the event loop."""

    def __init__(self, tracing: Tracing | None = None) -> None:
        self._models: dict[str, ModelCounters] = {}
        self.tracing = tracing or Tracing("gateway")

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
        entry = counters.versions.answering(version)
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
        if self.tracing.on:
            trace_answered(
                self.tracing,
                model,
                version,
                requests,
                batch_rows=batch_rows,
                taken_at=taken_at,
                infer_s=infer_s,
                now=now,
                split_s=split_ns / NANOSECONDS,
            )

    def on_response(self, model: str, version: str, index: int, span_s: float) -> None:
        """A decoupled request got the response of that index, so long after the one before."""
        entry = self.of(model).versions.answering(version)
        entry.response(index).success.add(1, int(span_s * NANOSECONDS))
        metrics.RESPONSES.labels(model).inc()

    def on_empty_response(self, model: str, version: str, span_s: float) -> None:
        """A decoupled request ended without any."""
        entry = self.of(model).versions.answering(version)
        entry.response(0).empty.add(1, int(span_s * NANOSECONDS))

    def on_response_missed(
        self, model: str, version: str, index: int, span_s: float, *, cancelled: bool
    ) -> None:
        """The response of that index will not come: it failed, or its caller went away.

        `version` is "" before the first.
        """
        versions = self.of(model).versions
        entry = versions.answering(version) if version else versions.newest()
        response = entry.response(index)
        span = response.cancelled if cancelled else response.fail
        span.add(1, int(span_s * NANOSECONDS))

    def on_failed(self, model: str, requests: Sequence[Ended], status: str, *, now: float) -> None:
        """Requests ended with `status`, the name of a gRPC code."""
        count = len(requests)
        counters = self.of(model)
        counters.failed += count
        entry = counters.versions.newest()
        entry.failed += count
        arrived = sum([request.arrived_at for request in requests])
        entry.fail_ns += max(0, int((count * now - arrived) * NANOSECONDS))
        metrics.REQUESTS.labels(model, status).inc(count)
        if self.tracing.on:
            trace_failed(self.tracing, model, requests, status, now=now)

    def on_rejected(self, model: str, priority: int, reason: str) -> None:
        """A request was refused at admission; its failure is counted besides."""
        self.of(model).rejected += 1
        metrics.REJECTS.labels(model, reason, str(priority)).inc()

    def on_shed(self, model: str, priority: int, reason: str) -> None:
        """An admitted request was given up without a batch; its failure is counted besides."""
        self.of(model).shed += 1
        metrics.SHED.labels(model, reason, str(priority)).inc()

    def on_refused(self, model: str, status: str) -> None:
        """A request ended before it waited: its input is wrong, or it was not admitted."""
        counters = self.of(model)
        counters.failed += 1
        counters.versions.newest().failed += 1
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
