"""RPCs that describe models: metadata, configuration, statistics.

Conversions only, from what the served models and the counters hold; nothing here waits.
"""

# ruff: noqa: N802 - RPC names are the protocol's.

from __future__ import annotations

from collections.abc import Mapping

from chassis.call import Call
from chassis.errors import NotFound, Unavailable
from chassis.limits import DEFAULT_LIMITS, Limits
from chassis.oip import checked_version, config_reply, metadata_reply
from chassis.tensors import Signature
from inference_service.counters import (
    Counters,
    ResponseCounters,
    SizeCounters,
    Span,
    VersionCounters,
)
from inference_service.index import ready_versions
from inference_service.intake import Intake
from inference_service.served import ServedModel
from protos.inference import grpc_service_pb2 as oip


class Descriptions:
    """The describing half of `inference.GRPCInferenceService`."""

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        counters: Mapping[str, Counters],
        *,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._models = models
        self._counters = counters
        self._intake = Intake(models, limits=limits)

    async def ModelMetadata(
        self, request: oip.ModelMetadataRequest, _call: Call
    ) -> oip.ModelMetadataResponse:
        """Names, datatypes and shapes; `versions` are those that would answer now."""
        served, signature = self._described(request.name, request.version)
        return metadata_reply(served.name, ready_versions(served), signature)

    async def ModelConfig(
        self, request: oip.ModelConfigRequest, _call: Call
    ) -> oip.ModelConfigResponse:
        """The same without the batch dimension, and the largest batch."""
        served, signature = self._described(request.name, request.version)
        return config_reply(served.name, signature)

    async def ModelStatistics(
        self, request: oip.ModelStatisticsRequest, _call: Call
    ) -> oip.ModelStatisticsResponse:
        """Counters by version: of one model, or of all where no name is given."""
        checked_version(request.version)
        names = [self._intake.model(request.name).name] if request.name else sorted(self._models)
        reply = oip.ModelStatisticsResponse()
        for name in names:
            for version, counters in self._counters[name].versions():
                if request.version in ("", version):
                    _add_statistics(reply, name, version, counters)
        return reply

    def _described(self, name: str, version: str) -> tuple[ServedModel, Signature]:
        served = self._intake.model(name)
        number = checked_version(version)
        if served.signature is None:
            raise Unavailable("MODEL_NOT_READY", f"model {name!r} has no version loaded yet")
        if number and not served.slots.holds(number):
            raise NotFound(
                "VERSION_NOT_FOUND",
                f"version {number} of model {name!r} is not loaded here",
                field="version",
            )
        return served, served.signature


def _add_statistics(
    reply: oip.ModelStatisticsResponse, name: str, version: str, counters: VersionCounters
) -> None:
    entry = reply.model_stats.add(
        name=name,
        version=version,
        last_inference=counters.last_inference_ms,
        inference_count=counters.rows,
        execution_count=counters.success.count,
    )
    _set_span(entry.inference_stats.success, counters.success)
    _set_span(entry.inference_stats.fail, counters.fail)
    _set_span(entry.inference_stats.queue, counters.queue)
    _set_compute(entry.inference_stats, counters.compute)
    for size, compute in sorted(counters.sizes.items()):
        batch = entry.batch_stats.add(batch_size=size)
        _set_compute(batch, compute)
    for index, response in sorted(counters.responses.items()):
        _set_response(entry.response_stats[str(index)], response)


def _set_response(target: oip.InferResponseStatistics, response: ResponseCounters) -> None:
    _set_span(target.compute_infer, response.compute_infer)
    _set_span(target.compute_output, response.compute_output)
    _set_span(target.success, response.success)
    _set_span(target.fail, response.fail)
    _set_span(target.empty_response, response.empty)
    _set_span(target.cancel, response.cancel)


def _set_compute(
    target: oip.InferStatistics | oip.InferBatchStatistics, compute: SizeCounters
) -> None:
    _set_span(target.compute_input, compute.compute_input)
    _set_span(target.compute_infer, compute.compute_infer)
    _set_span(target.compute_output, compute.compute_output)


def _set_span(target: oip.StatisticDuration, span: Span) -> None:
    target.count = span.count
    target.ns = round(span.seconds * 1e9)
