"""Prometheus series of the gateway; touched per batch or per refusal, not per request."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from chassis.telemetry import REGISTRY

REQUESTS = Counter(
    "headrace_gateway_requests",
    "Requests ended, by status code",
    ["model", "status"],
    registry=REGISTRY,
)
REJECTS = Counter(
    "headrace_gateway_rejects",
    "Requests refused at admission, by reason and class",
    ["model", "reason", "class"],
    registry=REGISTRY,
)
SHED = Counter(
    "headrace_gateway_shed",
    "Admitted requests given up before any replica was asked, by reason and class",
    ["model", "reason", "class"],
    registry=REGISTRY,
)
QUEUE_SECONDS = Histogram(
    "headrace_gateway_queue_seconds",
    "Wait of the oldest request of each batch, from arrival to dispatch",
    registry=REGISTRY,
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
BATCH_ROWS = Histogram(
    "headrace_gateway_batch_rows",
    "Rows of each batch sent",
    ["model"],
    registry=REGISTRY,
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
BATCH_SECONDS = Histogram(
    "headrace_gateway_batch_seconds",
    "From sending a batch to its answer",
    ["model"],
    registry=REGISTRY,
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
DISPATCHES = Counter(
    "headrace_gateway_dispatches",
    "Batches sent, by what let them go: full (as large as they should be), due (no time to wait), "
    "paced (their turn), free (nothing under way), sequence, retry, probe, shadow",
    ["model", "reason"],
    registry=REGISTRY,
)
FAILED_ATTEMPTS = Counter(
    "headrace_gateway_failed_attempts",
    "Batches that failed on an endpoint, by fault and by what became of them",
    ["model", "fault", "verdict"],
    registry=REGISTRY,
)
ROLLOUT_REQUESTS = Counter(
    "headrace_gateway_rollout_requests",
    "Requests of a rollout, by side (candidate, control) and what became of them: answered, "
    "failed, returned (to the version beside the candidate)",
    ["model", "side", "outcome"],
    registry=REGISTRY,
)
DELAYED = Counter(
    "headrace_gateway_delayed",
    "Requests that missed their objective and went on behind all others",
    ["model"],
    registry=REGISTRY,
)
OVERLOAD = Gauge(
    "headrace_gateway_overload_stage",
    "Whom overload turned away in the last second: 0 nobody, 1 lower classes, 2 tenants over "
    "their share, 3 everybody",
    registry=REGISTRY,
)
PREDICTION = Histogram(
    "headrace_gateway_batch_actual_over_predicted",
    "Time of each batch over what was predicted for it",
    ["model"],
    registry=REGISTRY,
    buckets=(0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 3, 5, 10),
)
ENDPOINT_RATIO = Gauge(
    "headrace_gateway_endpoint_slowness",
    "Time of an endpoint's batches over those of the fastest one",
    ["endpoint", "model"],
    registry=REGISTRY,
)
PROBES = Counter(
    "headrace_gateway_probes",
    "Copies of requests sent to slow endpoints to learn of them",
    ["model"],
    registry=REGISTRY,
)
HEDGES = Counter(
    "headrace_gateway_hedges",
    "Batches sent to a second endpoint because the first one was overdue",
    ["model"],
    registry=REGISTRY,
)
STREAMS = Gauge(
    "headrace_gateway_streams",
    "Streams of callers that are open",
    registry=REGISTRY,
)
RESPONSES = Counter(
    "headrace_gateway_responses",
    "Responses given to decoupled requests",
    ["model"],
    registry=REGISTRY,
)
SEQUENCES = Gauge(
    "headrace_gateway_sequences",
    "Sequences that have begun and neither ended nor been idle for too long",
    registry=REGISTRY,
)
INFLIGHT = Gauge(
    "headrace_gateway_inflight_batches",
    "Batches sent and not yet answered",
    registry=REGISTRY,
)
ENDPOINT_STATE = Gauge(
    "headrace_gateway_endpoint_state",
    "1 for the state an endpoint is in",
    ["endpoint", "state"],
    registry=REGISTRY,
)
