"""The replica's Prometheus metrics; every number an operator alerts on, nothing decided."""

from __future__ import annotations

from functools import partial

from prometheus_client import Counter, Gauge, Histogram

from chassis.telemetry import REGISTRY
from inference_service.policy.cadence import OVERDUE
from inference_service.served import ServedModel
from inference_service.staging import Staging

LOADS = Counter(
    "headrace_replica_loads",
    "Loads ended: flipped, set_aside or failed",
    ["model", "result"],
    registry=REGISTRY,
)
LOAD_SECONDS = Histogram(
    "headrace_replica_load_seconds",
    "From a version wanted to its flip",
    ["model"],
    registry=REGISTRY,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
SERVING_VERSION = Gauge(
    "headrace_replica_serving_version",
    "Version that answers; 0 before the first",
    ["model"],
    registry=REGISTRY,
)
VERSION_AGE = Gauge(
    "headrace_replica_version_age_seconds",
    "Since the end of the train step whose weights serve",
    ["model"],
    registry=REGISTRY,
)
PUBLICATIONS_OVERDUE = Gauge(
    "headrace_replica_publications_overdue",
    "1 while no version comes for much longer than one ever took lately, else 0",
    ["model"],
    registry=REGISTRY,
)
FIRST_REPLY_SECONDS = Histogram(
    "headrace_replica_first_reply_seconds",
    "From the end of a train step to the first reply computed with its weights",
    ["model"],
    registry=REGISTRY,
    buckets=(0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800),
)
BATCHES = Counter(
    "headrace_replica_batches",
    "Batches ended, by gRPC status",
    ["model", "code"],
    registry=REGISTRY,
)
RESPONSES = Counter(
    "headrace_replica_responses",
    "Responses that generative models made",
    ["model"],
    registry=REGISTRY,
)
BATCH_ROWS = Histogram(
    "headrace_replica_batch_rows",
    "Rows of a computed batch",
    ["model"],
    registry=REGISTRY,
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
BATCH_SECONDS = Histogram(
    "headrace_replica_batch_seconds",
    "Forward pass of a batch, or one step of a generation",
    ["model"],
    registry=REGISTRY,
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5),
)


SEQUENCES = Gauge(
    "headrace_replica_sequences",
    "Sequences that have begun and neither ended nor been idle for too long",
    ["model"],
    registry=REGISTRY,
)


GRAPH_PASSES = Gauge(
    "headrace_replica_graph_passes",
    "Forward passes since the model is served: recorded, rerecorded, replayed, plain",
    ["model", "kind"],
    registry=REGISTRY,
)


STAGING_RATE = Gauge(
    "headrace_replica_staging_bytes_per_second",
    "How fast loads may copy and hash; 0 while nothing is loaded",
    registry=REGISTRY,
)


# Of `GraphCounts`, by what they are called in metrics.
_GRAPH_FIELDS = {
    "recorded": "recorded",
    "rerecorded": "rerecorded",
    "replayed": "replays",
    "plain": "plain",
}


def watch_staging(staging: Staging) -> None:
    """Makes the gauge read the present rate whenever it is scraped."""
    STAGING_RATE.set_function(lambda: staging.snapshot().rate)


def watch_model(served: ServedModel) -> None:
    """Makes the gauges of a model read its present state whenever they are scraped."""
    SERVING_VERSION.labels(served.name).set_function(lambda: served.snapshot().serving_version)
    SEQUENCES.labels(served.name).set_function(served.sequences.__len__)
    VERSION_AGE.labels(served.name).set_function(lambda: served.age_ms / 1000)
    PUBLICATIONS_OVERDUE.labels(served.name).set_function(partial(_overdue, served))
    for kind, field in _GRAPH_FIELDS.items():
        passes = GRAPH_PASSES.labels(served.name, kind)
        passes.set_function(partial(_passes, served, field))


def _overdue(served: ServedModel) -> bool:
    found = served.irregularity
    return found is not None and found.reason == OVERDUE


def _passes(served: ServedModel, field: str) -> int:
    graphs = served.snapshot().engine.graphs
    return 0 if graphs is None else int(getattr(graphs.counts, field))


def forget_model(model: str) -> None:
    """Lets go of a model that is served no more; its counters stay."""
    SERVING_VERSION.remove(model)
    VERSION_AGE.remove(model)
    SEQUENCES.remove(model)
    PUBLICATIONS_OVERDUE.remove(model)
    for kind in _GRAPH_FIELDS:
        GRAPH_PASSES.remove(model, kind)


def on_load(model: str, result: str, seconds: float) -> None:
    """A load ended; `seconds` count where it flipped."""
    LOADS.labels(model, result).inc()
    if result == "flipped":
        LOAD_SECONDS.labels(model).observe(seconds)
