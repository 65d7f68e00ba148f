"""Every path, its method, the RPC behind it and what answers it; the OpenAPI document names all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chassis.rest import control, descriptions, inference
from chassis.rest.exchange import Exchange, Reply

Behavior = Callable[[Exchange], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """`rpc` names the gRPC method that the endpoint stands for: whoever may call one may both."""

    method: str
    path: str
    rpc: str
    behavior: Behavior


def _model(method: str, end: str, rpc: str, behavior: Behavior) -> list[RouteSpec]:
    """With and without a version."""
    return [
        RouteSpec(method, f"/v2/models/{{model}}{end}", rpc, behavior),
        RouteSpec(method, f"/v2/models/{{model}}/versions/{{version}}{end}", rpc, behavior),
    ]


def _memory(
    kind: str, rpc: str, status: Behavior, register: Behavior, drop: Behavior
) -> list[RouteSpec]:
    region = f"/v2/{kind}/region/{{region}}"
    return [
        RouteSpec("GET", f"/v2/{kind}/status", f"{rpc}Status", status),
        RouteSpec("GET", f"{region}/status", f"{rpc}Status", status),
        RouteSpec("POST", f"{region}/register", f"{rpc}Register", register),
        RouteSpec("POST", f"/v2/{kind}/unregister", f"{rpc}Unregister", drop),
        RouteSpec("POST", f"{region}/unregister", f"{rpc}Unregister", drop),
    ]


# Looked through in this order: what is asked most comes first.
ROUTES: tuple[RouteSpec, ...] = (
    *_model("POST", "/infer", "ModelInfer", inference.infer),
    *_model("POST", "/generate", "ModelStreamInfer", inference.generate),
    *_model("POST", "/generate_stream", "ModelStreamInfer", inference.generate_stream),
    RouteSpec("GET", "/v2/health/live", "ServerLive", descriptions.server_live),
    RouteSpec("GET", "/v2/health/ready", "ServerReady", descriptions.server_ready),
    RouteSpec("GET", "/v2", "ServerMetadata", descriptions.server_metadata),
    # Before a model's own paths, which would take it for a model.
    RouteSpec("GET", "/v2/models/stats", "ModelStatistics", descriptions.model_statistics),
    *_model("GET", "/ready", "ModelReady", descriptions.model_ready),
    *_model("GET", "", "ModelMetadata", descriptions.model_metadata),
    *_model("GET", "/config", "ModelConfig", descriptions.model_config),
    *_model("GET", "/stats", "ModelStatistics", descriptions.model_statistics),
    RouteSpec("POST", "/v2/repository/index", "RepositoryIndex", descriptions.repository_index),
    RouteSpec(
        "POST", "/v2/repository/models/{model}/load", "RepositoryModelLoad", control.load_model
    ),
    RouteSpec(
        "POST",
        "/v2/repository/models/{model}/unload",
        "RepositoryModelUnload",
        control.unload_model,
    ),
    RouteSpec("GET", "/v2/trace/setting", "TraceSetting", control.get_trace_settings),
    RouteSpec("POST", "/v2/trace/setting", "TraceSetting", control.set_trace_settings),
    RouteSpec(
        "GET", "/v2/models/{model}/trace/setting", "TraceSetting", control.get_trace_settings
    ),
    RouteSpec(
        "POST", "/v2/models/{model}/trace/setting", "TraceSetting", control.set_trace_settings
    ),
    RouteSpec("GET", "/v2/logging", "LogSettings", control.get_log_settings),
    RouteSpec("POST", "/v2/logging", "LogSettings", control.set_log_settings),
    *_memory(
        "systemsharedmemory",
        "SystemSharedMemory",
        control.system_memory_status,
        control.register_system_memory,
        control.unregister_system_memory,
    ),
    *_memory(
        "cudasharedmemory",
        "CudaSharedMemory",
        control.cuda_memory_status,
        control.register_cuda_memory,
        control.unregister_cuda_memory,
    ),
)
