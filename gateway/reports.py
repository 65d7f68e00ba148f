"""The door for counters: the ledger as ModelStatistics messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.statistics import BatchSizeCounters, ModelCounters, VersionCounters
from protos.inference import grpc_service_pb2 as oip


def statistics_reply(
    models: Mapping[str, ModelCounters], version: int = 0
) -> oip.ModelStatisticsResponse:
    """An entry per model and version; only `version` if it is not 0."""
    reply = oip.ModelStatisticsResponse()
    for name, model in models.items():
        for text, counters in model.versions.items():
            if not version or text == str(version):
                _fill(reply.model_stats.add(name=name, version=text), counters)
    return reply


def _fill(entry: Any, counters: VersionCounters) -> None:
    entry.last_inference = counters.last_inference_time_ms
    entry.inference_count = counters.rows
    entry.execution_count = counters.executions
    stats = entry.inference_stats
    answered = counters.succeeded
    _set(stats.success, answered, counters.success_ns)
    _set(stats.fail, counters.failed, counters.fail_ns)
    _set(stats.queue, answered, counters.queue_ns)
    _set(stats.compute_input, answered, counters.input_ns)
    _set(stats.compute_infer, answered, counters.infer_ns)
    _set(stats.compute_output, answered, counters.output_ns)
    for rows, size in sorted(counters.by_rows.items()):
        _fill_size(entry.batch_stats.add(batch_size=rows), size)


def _fill_size(entry: Any, size: BatchSizeCounters) -> None:
    _set(entry.compute_input, size.executions, size.input_ns)
    _set(entry.compute_infer, size.executions, size.infer_ns)
    _set(entry.compute_output, size.executions, size.output_ns)


def _set(duration: Any, count: int, nanoseconds: int) -> None:
    duration.count = count
    duration.ns = nanoseconds
