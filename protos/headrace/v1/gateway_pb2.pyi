from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EndpointState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENDPOINT_STATE_UNSPECIFIED: _ClassVar[EndpointState]
    ENDPOINT_STATE_UNKNOWN: _ClassVar[EndpointState]
    ENDPOINT_STATE_HEALTHY: _ClassVar[EndpointState]
    ENDPOINT_STATE_EJECTED: _ClassVar[EndpointState]
    ENDPOINT_STATE_DRAINING: _ClassVar[EndpointState]

class OverloadStage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OVERLOAD_STAGE_UNSPECIFIED: _ClassVar[OverloadStage]
    OVERLOAD_STAGE_NOBODY: _ClassVar[OverloadStage]
    OVERLOAD_STAGE_LOWER_CLASSES: _ClassVar[OverloadStage]
    OVERLOAD_STAGE_TENANTS_OVER_SHARE: _ClassVar[OverloadStage]
    OVERLOAD_STAGE_EVERYBODY: _ClassVar[OverloadStage]
ENDPOINT_STATE_UNSPECIFIED: EndpointState
ENDPOINT_STATE_UNKNOWN: EndpointState
ENDPOINT_STATE_HEALTHY: EndpointState
ENDPOINT_STATE_EJECTED: EndpointState
ENDPOINT_STATE_DRAINING: EndpointState
OVERLOAD_STAGE_UNSPECIFIED: OverloadStage
OVERLOAD_STAGE_NOBODY: OverloadStage
OVERLOAD_STAGE_LOWER_CLASSES: OverloadStage
OVERLOAD_STAGE_TENANTS_OVER_SHARE: OverloadStage
OVERLOAD_STAGE_EVERYBODY: OverloadStage

class EndpointStatus(_message.Message):
    __slots__ = ("address", "state", "inflight_batches", "inflight_rows", "batches", "failures", "models", "streaming", "error", "speeds")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INFLIGHT_BATCHES_FIELD_NUMBER: _ClassVar[int]
    INFLIGHT_ROWS_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    STREAMING_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SPEEDS_FIELD_NUMBER: _ClassVar[int]
    address: str
    state: EndpointState
    inflight_batches: int
    inflight_rows: int
    batches: int
    failures: int
    models: _containers.RepeatedScalarFieldContainer[str]
    streaming: bool
    error: str
    speeds: _containers.RepeatedCompositeFieldContainer[ModelSpeed]
    def __init__(self, address: _Optional[str] = ..., state: _Optional[_Union[EndpointState, str]] = ..., inflight_batches: _Optional[int] = ..., inflight_rows: _Optional[int] = ..., batches: _Optional[int] = ..., failures: _Optional[int] = ..., models: _Optional[_Iterable[str]] = ..., streaming: _Optional[bool] = ..., error: _Optional[str] = ..., speeds: _Optional[_Iterable[_Union[ModelSpeed, _Mapping]]] = ...) -> None: ...

class ModelSpeed(_message.Message):
    __slots__ = ("model", "batch_ms", "row_ms", "slowness", "margin", "ratio", "slow", "batches")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BATCH_MS_FIELD_NUMBER: _ClassVar[int]
    ROW_MS_FIELD_NUMBER: _ClassVar[int]
    SLOWNESS_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    SLOW_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    model: str
    batch_ms: float
    row_ms: float
    slowness: float
    margin: float
    ratio: float
    slow: bool
    batches: int
    def __init__(self, model: _Optional[str] = ..., batch_ms: _Optional[float] = ..., row_ms: _Optional[float] = ..., slowness: _Optional[float] = ..., margin: _Optional[float] = ..., ratio: _Optional[float] = ..., slow: _Optional[bool] = ..., batches: _Optional[int] = ...) -> None: ...

class TenantStatus(_message.Message):
    __slots__ = ("tenant", "queued_requests", "rows")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    queued_requests: int
    rows: int
    def __init__(self, tenant: _Optional[str] = ..., queued_requests: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class GatewayModelStatus(_message.Message):
    __slots__ = ("model", "queued_requests", "queued_rows", "queued_bytes", "succeeded", "failed", "rejected", "batches", "rows", "retries", "shed", "arriving_rows_per_s", "endpoints_by_speed", "best_batch_rows")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_ROWS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    SHED_FIELD_NUMBER: _ClassVar[int]
    ARRIVING_ROWS_PER_S_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_BY_SPEED_FIELD_NUMBER: _ClassVar[int]
    BEST_BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    model: str
    queued_requests: int
    queued_rows: int
    queued_bytes: int
    succeeded: int
    failed: int
    rejected: int
    batches: int
    rows: int
    retries: int
    shed: int
    arriving_rows_per_s: float
    endpoints_by_speed: float
    best_batch_rows: int
    def __init__(self, model: _Optional[str] = ..., queued_requests: _Optional[int] = ..., queued_rows: _Optional[int] = ..., queued_bytes: _Optional[int] = ..., succeeded: _Optional[int] = ..., failed: _Optional[int] = ..., rejected: _Optional[int] = ..., batches: _Optional[int] = ..., rows: _Optional[int] = ..., retries: _Optional[int] = ..., shed: _Optional[int] = ..., arriving_rows_per_s: _Optional[float] = ..., endpoints_by_speed: _Optional[float] = ..., best_batch_rows: _Optional[int] = ...) -> None: ...

class GatewayGetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GatewayGetStatusResponse(_message.Message):
    __slots__ = ("endpoints", "models", "draining", "uptime_s", "overload", "tenants")
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    OVERLOAD_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    endpoints: _containers.RepeatedCompositeFieldContainer[EndpointStatus]
    models: _containers.RepeatedCompositeFieldContainer[GatewayModelStatus]
    draining: bool
    uptime_s: float
    overload: OverloadStage
    tenants: _containers.RepeatedCompositeFieldContainer[TenantStatus]
    def __init__(self, endpoints: _Optional[_Iterable[_Union[EndpointStatus, _Mapping]]] = ..., models: _Optional[_Iterable[_Union[GatewayModelStatus, _Mapping]]] = ..., draining: _Optional[bool] = ..., uptime_s: _Optional[float] = ..., overload: _Optional[_Union[OverloadStage, str]] = ..., tenants: _Optional[_Iterable[_Union[TenantStatus, _Mapping]]] = ...) -> None: ...

class DrainEndpointRequest(_message.Message):
    __slots__ = ("address",)
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: str
    def __init__(self, address: _Optional[str] = ...) -> None: ...

class DrainEndpointResponse(_message.Message):
    __slots__ = ("endpoint",)
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    endpoint: EndpointStatus
    def __init__(self, endpoint: _Optional[_Union[EndpointStatus, _Mapping]] = ...) -> None: ...

class RestoreEndpointRequest(_message.Message):
    __slots__ = ("address",)
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    address: str
    def __init__(self, address: _Optional[str] = ...) -> None: ...

class RestoreEndpointResponse(_message.Message):
    __slots__ = ("endpoint",)
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    endpoint: EndpointStatus
    def __init__(self, endpoint: _Optional[_Union[EndpointStatus, _Mapping]] = ...) -> None: ...

class GetRolloutRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class Scores(_message.Message):
    __slots__ = ("count", "sum", "sum_squares")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    SUM_SQUARES_FIELD_NUMBER: _ClassVar[int]
    count: int
    sum: float
    sum_squares: float
    def __init__(self, count: _Optional[int] = ..., sum: _Optional[float] = ..., sum_squares: _Optional[float] = ...) -> None: ...

class ArmStatus(_message.Message):
    __slots__ = ("version", "requests", "failed", "slowness", "latency_ms", "scores")
    class ScoresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Scores
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Scores, _Mapping]] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    SLOWNESS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    version: int
    requests: int
    failed: int
    slowness: Scores
    latency_ms: Scores
    scores: _containers.MessageMap[str, Scores]
    def __init__(self, version: _Optional[int] = ..., requests: _Optional[int] = ..., failed: _Optional[int] = ..., slowness: _Optional[_Union[Scores, _Mapping]] = ..., latency_ms: _Optional[_Union[Scores, _Mapping]] = ..., scores: _Optional[_Mapping[str, Scores]] = ...) -> None: ...

class ShadowStatus(_message.Message):
    __slots__ = ("batches", "failed", "rows", "changed_rows", "difference", "max_difference")
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_ROWS_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    MAX_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    batches: int
    failed: int
    rows: int
    changed_rows: int
    difference: Scores
    max_difference: float
    def __init__(self, batches: _Optional[int] = ..., failed: _Optional[int] = ..., rows: _Optional[int] = ..., changed_rows: _Optional[int] = ..., difference: _Optional[_Union[Scores, _Mapping]] = ..., max_difference: _Optional[float] = ...) -> None: ...

class GetRolloutResponse(_message.Message):
    __slots__ = ("candidate_version", "revision", "share", "endpoints", "ready_endpoints", "candidate", "control", "shadow")
    CANDIDATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    READY_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    candidate_version: int
    revision: int
    share: float
    endpoints: int
    ready_endpoints: int
    candidate: ArmStatus
    control: ArmStatus
    shadow: ShadowStatus
    def __init__(self, candidate_version: _Optional[int] = ..., revision: _Optional[int] = ..., share: _Optional[float] = ..., endpoints: _Optional[int] = ..., ready_endpoints: _Optional[int] = ..., candidate: _Optional[_Union[ArmStatus, _Mapping]] = ..., control: _Optional[_Union[ArmStatus, _Mapping]] = ..., shadow: _Optional[_Union[ShadowStatus, _Mapping]] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("model", "scores")
    class Score(_message.Message):
        __slots__ = ("version", "metric", "value")
        VERSION_FIELD_NUMBER: _ClassVar[int]
        METRIC_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        version: int
        metric: str
        value: float
        def __init__(self, version: _Optional[int] = ..., metric: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    model: str
    scores: _containers.RepeatedCompositeFieldContainer[ReportRequest.Score]
    def __init__(self, model: _Optional[str] = ..., scores: _Optional[_Iterable[_Union[ReportRequest.Score, _Mapping]]] = ...) -> None: ...

class ReportResponse(_message.Message):
    __slots__ = ("taken",)
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    taken: int
    def __init__(self, taken: _Optional[int] = ...) -> None: ...
