from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SlotState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SLOT_STATE_UNSPECIFIED: _ClassVar[SlotState]
    SLOT_STATE_EMPTY: _ClassVar[SlotState]
    SLOT_STATE_LOADING: _ClassVar[SlotState]
    SLOT_STATE_SERVING: _ClassVar[SlotState]
    SLOT_STATE_STANDBY: _ClassVar[SlotState]
SLOT_STATE_UNSPECIFIED: SlotState
SLOT_STATE_EMPTY: SlotState
SLOT_STATE_LOADING: SlotState
SLOT_STATE_SERVING: SlotState
SLOT_STATE_STANDBY: SlotState

class SlotStatus(_message.Message):
    __slots__ = ("state", "version", "pins")
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PINS_FIELD_NUMBER: _ClassVar[int]
    state: SlotState
    version: int
    pins: int
    def __init__(self, state: _Optional[_Union[SlotState, str]] = ..., version: _Optional[int] = ..., pins: _Optional[int] = ...) -> None: ...

class LoadFailure(_message.Message):
    __slots__ = ("version", "reason", "message", "fail_time_ms")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FAIL_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    version: int
    reason: str
    message: str
    fail_time_ms: int
    def __init__(self, version: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., fail_time_ms: _Optional[int] = ...) -> None: ...

class EngineTrial(_message.Message):
    __slots__ = ("engine", "precision", "sizes", "why_not")
    class Size(_message.Message):
        __slots__ = ("rows", "forward_us")
        ROWS_FIELD_NUMBER: _ClassVar[int]
        FORWARD_US_FIELD_NUMBER: _ClassVar[int]
        rows: int
        forward_us: float
        def __init__(self, rows: _Optional[int] = ..., forward_us: _Optional[float] = ...) -> None: ...
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    WHY_NOT_FIELD_NUMBER: _ClassVar[int]
    engine: str
    precision: str
    sizes: _containers.RepeatedCompositeFieldContainer[EngineTrial.Size]
    why_not: str
    def __init__(self, engine: _Optional[str] = ..., precision: _Optional[str] = ..., sizes: _Optional[_Iterable[_Union[EngineTrial.Size, _Mapping]]] = ..., why_not: _Optional[str] = ...) -> None: ...

class GraphStatus(_message.Message):
    __slots__ = ("sizes", "recorded", "rerecorded", "replays", "plain", "why_not")
    SIZES_FIELD_NUMBER: _ClassVar[int]
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    RERECORDED_FIELD_NUMBER: _ClassVar[int]
    REPLAYS_FIELD_NUMBER: _ClassVar[int]
    PLAIN_FIELD_NUMBER: _ClassVar[int]
    WHY_NOT_FIELD_NUMBER: _ClassVar[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    recorded: int
    rerecorded: int
    replays: int
    plain: int
    why_not: str
    def __init__(self, sizes: _Optional[_Iterable[int]] = ..., recorded: _Optional[int] = ..., rerecorded: _Optional[int] = ..., replays: _Optional[int] = ..., plain: _Optional[int] = ..., why_not: _Optional[str] = ...) -> None: ...

class EngineStatus(_message.Message):
    __slots__ = ("engine", "precision", "why_not", "trials", "graphs")
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    WHY_NOT_FIELD_NUMBER: _ClassVar[int]
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    GRAPHS_FIELD_NUMBER: _ClassVar[int]
    engine: str
    precision: str
    why_not: str
    trials: _containers.RepeatedCompositeFieldContainer[EngineTrial]
    graphs: GraphStatus
    def __init__(self, engine: _Optional[str] = ..., precision: _Optional[str] = ..., why_not: _Optional[str] = ..., trials: _Optional[_Iterable[_Union[EngineTrial, _Mapping]]] = ..., graphs: _Optional[_Union[GraphStatus, _Mapping]] = ...) -> None: ...

class ReplicaModelStatus(_message.Message):
    __slots__ = ("model", "channel", "serving_version", "wanted_version", "step", "age_ms", "behind_ms", "slots", "failures", "swaps", "last_load_ms", "load_step", "first_reply_ms", "engine", "revision", "candidate_version", "candidate_ready", "publications")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    SERVING_VERSION_FIELD_NUMBER: _ClassVar[int]
    WANTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    BEHIND_MS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    SWAPS_FIELD_NUMBER: _ClassVar[int]
    LAST_LOAD_MS_FIELD_NUMBER: _ClassVar[int]
    LOAD_STEP_FIELD_NUMBER: _ClassVar[int]
    FIRST_REPLY_MS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_READY_FIELD_NUMBER: _ClassVar[int]
    PUBLICATIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    channel: str
    serving_version: int
    wanted_version: int
    step: int
    age_ms: int
    behind_ms: int
    slots: _containers.RepeatedCompositeFieldContainer[SlotStatus]
    failures: _containers.RepeatedCompositeFieldContainer[LoadFailure]
    swaps: int
    last_load_ms: float
    load_step: str
    first_reply_ms: int
    engine: EngineStatus
    revision: int
    candidate_version: int
    candidate_ready: bool
    publications: str
    def __init__(self, model: _Optional[str] = ..., channel: _Optional[str] = ..., serving_version: _Optional[int] = ..., wanted_version: _Optional[int] = ..., step: _Optional[int] = ..., age_ms: _Optional[int] = ..., behind_ms: _Optional[int] = ..., slots: _Optional[_Iterable[_Union[SlotStatus, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[LoadFailure, _Mapping]]] = ..., swaps: _Optional[int] = ..., last_load_ms: _Optional[float] = ..., load_step: _Optional[str] = ..., first_reply_ms: _Optional[int] = ..., engine: _Optional[_Union[EngineStatus, _Mapping]] = ..., revision: _Optional[int] = ..., candidate_version: _Optional[int] = ..., candidate_ready: _Optional[bool] = ..., publications: _Optional[str] = ...) -> None: ...

class StagingStatus(_message.Message):
    __slots__ = ("bytes_per_s", "calm_p99_ms", "staging_p99_ms", "decreases")
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    CALM_P99_MS_FIELD_NUMBER: _ClassVar[int]
    STAGING_P99_MS_FIELD_NUMBER: _ClassVar[int]
    DECREASES_FIELD_NUMBER: _ClassVar[int]
    bytes_per_s: float
    calm_p99_ms: float
    staging_p99_ms: float
    decreases: int
    def __init__(self, bytes_per_s: _Optional[float] = ..., calm_p99_ms: _Optional[float] = ..., staging_p99_ms: _Optional[float] = ..., decreases: _Optional[int] = ...) -> None: ...

class ReplicaGetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReplicaGetStatusResponse(_message.Message):
    __slots__ = ("replica", "device", "models", "uptime_s", "inflight", "draining", "store_error", "staging")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    INFLIGHT_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    STORE_ERROR_FIELD_NUMBER: _ClassVar[int]
    STAGING_FIELD_NUMBER: _ClassVar[int]
    replica: str
    device: str
    models: _containers.RepeatedCompositeFieldContainer[ReplicaModelStatus]
    uptime_s: float
    inflight: int
    draining: bool
    store_error: str
    staging: StagingStatus
    def __init__(self, replica: _Optional[str] = ..., device: _Optional[str] = ..., models: _Optional[_Iterable[_Union[ReplicaModelStatus, _Mapping]]] = ..., uptime_s: _Optional[float] = ..., inflight: _Optional[int] = ..., draining: _Optional[bool] = ..., store_error: _Optional[str] = ..., staging: _Optional[_Union[StagingStatus, _Mapping]] = ...) -> None: ...
