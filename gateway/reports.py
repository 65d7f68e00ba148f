"""The door for counters: the ledger as ModelStatistics messages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from gateway.statistics import ModelCounters
from gateway.version_counters import (
    BatchSizeCounters,
    ResponseCounters,
    Span,
    VersionCounters,
)
from protos.inference import grpc_service_pb2 as oip


def statistics_reply(
    models: Mapping[str, ModelCounters], loaded: Mapping[str, Collection[int]], version: int = 0
) -> oip.ModelStatisticsResponse:
    """An entry per model and version, in ascending order; only `version` if it is not 0.

    Versions that are loaded and have not answered yet have an entry of zeros. The entry without a
    version comes last and holds what belongs to none: see `Versions`.
    """
    reply = oip.ModelStatisticsResponse()
    for name, model in models.items():
        counted = dict(model.versions)
        for number in loaded.get(name, ()):
            if str(number) not in counted and not model.versions.dropped(str(number)):
                counted[str(number)] = VersionCounters()
        for text in sorted(counted, key=lambda text: (not text, len(text), text)):
            if not version or text == str(version):
                _fill(reply.model_stats.add(name=name, version=text), counted[text])
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
    for index, response in sorted(counters.responses.items()):
        _fill_response(entry.response_stats[str(index)], response)


def _fill_size(entry: Any, size: BatchSizeCounters) -> None:
    _set(entry.compute_input, size.executions, size.input_ns)
    _set(entry.compute_infer, size.executions, size.infer_ns)
    _set(entry.compute_output, size.executions, size.output_ns)


def _fill_response(entry: Any, response: ResponseCounters) -> None:
    spans: tuple[tuple[Any, Span], ...] = (
        (entry.compute_infer, response.success),
        (entry.success, response.success),
        (entry.fail, response.fail),
        (entry.empty_response, response.empty),
        (entry.cancel, response.cancelled),
    )
    for duration, span in spans:
        _set(duration, span.count, span.ns)


def _set(duration: Any, count: int, nanoseconds: int) -> None:
    duration.count = count
    duration.ns = nanoseconds
