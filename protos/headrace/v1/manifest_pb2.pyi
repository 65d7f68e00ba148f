from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ProgramKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROGRAM_KIND_UNSPECIFIED: _ClassVar[ProgramKind]
    PROGRAM_KIND_EXPORTED: _ClassVar[ProgramKind]
    PROGRAM_KIND_IMPORT_PATH: _ClassVar[ProgramKind]

class RolloutState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_STATE_UNSPECIFIED: _ClassVar[RolloutState]
    ROLLOUT_STATE_RUNNING: _ClassVar[RolloutState]
    ROLLOUT_STATE_PROMOTED: _ClassVar[RolloutState]
    ROLLOUT_STATE_ABORTED: _ClassVar[RolloutState]
    ROLLOUT_STATE_PROMOTING: _ClassVar[RolloutState]
PROGRAM_KIND_UNSPECIFIED: ProgramKind
PROGRAM_KIND_EXPORTED: ProgramKind
PROGRAM_KIND_IMPORT_PATH: ProgramKind
ROLLOUT_STATE_UNSPECIFIED: RolloutState
ROLLOUT_STATE_RUNNING: RolloutState
ROLLOUT_STATE_PROMOTED: RolloutState
ROLLOUT_STATE_ABORTED: RolloutState
ROLLOUT_STATE_PROMOTING: RolloutState

class TensorSpec(_message.Message):
    __slots__ = ("name", "datatype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Signature(_message.Message):
    __slots__ = ("inputs", "outputs", "max_batch_size", "decoupled", "states", "padding", "labels")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    DECOUPLED_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    inputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    outputs: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    max_batch_size: int
    decoupled: bool
    states: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    padding: _containers.RepeatedCompositeFieldContainer[Padding]
    labels: _containers.RepeatedCompositeFieldContainer[Labels]
    def __init__(self, inputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., max_batch_size: _Optional[int] = ..., decoupled: _Optional[bool] = ..., states: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., padding: _Optional[_Iterable[_Union[Padding, _Mapping]]] = ..., labels: _Optional[_Iterable[_Union[Labels, _Mapping]]] = ...) -> None: ...

class Padding(_message.Message):
    __slots__ = ("axis", "buckets", "inputs", "outputs")
    class Input(_message.Message):
        __slots__ = ("name", "value")
        NAME_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        name: str
        value: float
        def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    AXIS_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    axis: int
    buckets: _containers.RepeatedScalarFieldContainer[int]
    inputs: _containers.RepeatedCompositeFieldContainer[Padding.Input]
    outputs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, axis: _Optional[int] = ..., buckets: _Optional[_Iterable[int]] = ..., inputs: _Optional[_Iterable[_Union[Padding.Input, _Mapping]]] = ..., outputs: _Optional[_Iterable[str]] = ...) -> None: ...

class Labels(_message.Message):
    __slots__ = ("output", "names")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    output: str
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, output: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ...) -> None: ...

class Program(_message.Message):
    __slots__ = ("kind", "digest", "size_bytes")
    KIND_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    kind: ProgramKind
    digest: str
    size_bytes: int
    def __init__(self, kind: _Optional[_Union[ProgramKind, str]] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class TensorEntry(_message.Message):
    __slots__ = ("name", "datatype", "shape", "digest", "size_bytes", "base_digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    digest: str
    size_bytes: int
    base_digest: str
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., base_digest: _Optional[str] = ...) -> None: ...

class DeltaStep(_message.Message):
    __slots__ = ("base_version", "digest", "size_bytes")
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    base_version: int
    digest: str
    size_bytes: int
    def __init__(self, base_version: _Optional[int] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("digest", "size_bytes", "absolute_tolerance", "relative_tolerance")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ABSOLUTE_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size_bytes: int
    absolute_tolerance: float
    relative_tolerance: float
    def __init__(self, digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., absolute_tolerance: _Optional[float] = ..., relative_tolerance: _Optional[float] = ...) -> None: ...

class ModuleConfig(_message.Message):
    __slots__ = ("digest", "size_bytes")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size_bytes: int
    def __init__(self, digest: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class SignedBy(_message.Message):
    __slots__ = ("key_id", "signature")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    signature: bytes
    def __init__(self, key_id: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Manifest(_message.Message):
    __slots__ = ("model", "version", "epoch", "parent", "step", "metrics", "create_time_ms", "program", "signature", "tensors", "probe", "producer", "commit_id", "step_time_ms", "config", "deltas", "signed_by")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    COMMIT_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    DELTAS_FIELD_NUMBER: _ClassVar[int]
    SIGNED_BY_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    epoch: int
    parent: int
    step: int
    metrics: _containers.ScalarMap[str, float]
    create_time_ms: int
    program: Program
    signature: Signature
    tensors: _containers.RepeatedCompositeFieldContainer[TensorEntry]
    probe: Probe
    producer: str
    commit_id: str
    step_time_ms: int
    config: ModuleConfig
    deltas: _containers.RepeatedCompositeFieldContainer[DeltaStep]
    signed_by: SignedBy
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., epoch: _Optional[int] = ..., parent: _Optional[int] = ..., step: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., create_time_ms: _Optional[int] = ..., program: _Optional[_Union[Program, _Mapping]] = ..., signature: _Optional[_Union[Signature, _Mapping]] = ..., tensors: _Optional[_Iterable[_Union[TensorEntry, _Mapping]]] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ..., producer: _Optional[str] = ..., commit_id: _Optional[str] = ..., step_time_ms: _Optional[int] = ..., config: _Optional[_Union[ModuleConfig, _Mapping]] = ..., deltas: _Optional[_Iterable[_Union[DeltaStep, _Mapping]]] = ..., signed_by: _Optional[_Union[SignedBy, _Mapping]] = ...) -> None: ...

class ChannelMove(_message.Message):
    __slots__ = ("version", "revision", "move_time_ms", "reason", "epoch")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    MOVE_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    version: int
    revision: int
    move_time_ms: int
    reason: str
    epoch: int
    def __init__(self, version: _Optional[int] = ..., revision: _Optional[int] = ..., move_time_ms: _Optional[int] = ..., reason: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class RolloutPlan(_message.Message):
    __slots__ = ("shares", "stage_s", "min_requests", "max_error_difference", "max_latency_ratio", "metric", "lower_is_better", "max_score_drop", "min_scores", "shadow", "max_changed", "give_up_s")
    SHARES_FIELD_NUMBER: _ClassVar[int]
    STAGE_S_FIELD_NUMBER: _ClassVar[int]
    MIN_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MAX_ERROR_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    MAX_LATENCY_RATIO_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    LOWER_IS_BETTER_FIELD_NUMBER: _ClassVar[int]
    MAX_SCORE_DROP_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORES_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    MAX_CHANGED_FIELD_NUMBER: _ClassVar[int]
    GIVE_UP_S_FIELD_NUMBER: _ClassVar[int]
    shares: _containers.RepeatedScalarFieldContainer[float]
    stage_s: float
    min_requests: int
    max_error_difference: float
    max_latency_ratio: float
    metric: str
    lower_is_better: bool
    max_score_drop: float
    min_scores: int
    shadow: float
    max_changed: float
    give_up_s: float
    def __init__(self, shares: _Optional[_Iterable[float]] = ..., stage_s: _Optional[float] = ..., min_requests: _Optional[int] = ..., max_error_difference: _Optional[float] = ..., max_latency_ratio: _Optional[float] = ..., metric: _Optional[str] = ..., lower_is_better: _Optional[bool] = ..., max_score_drop: _Optional[float] = ..., min_scores: _Optional[int] = ..., shadow: _Optional[float] = ..., max_changed: _Optional[float] = ..., give_up_s: _Optional[float] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("against", "state", "stage", "plan", "base_revision")
    AGAINST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    BASE_REVISION_FIELD_NUMBER: _ClassVar[int]
    against: str
    state: RolloutState
    stage: int
    plan: RolloutPlan
    base_revision: int
    def __init__(self, against: _Optional[str] = ..., state: _Optional[_Union[RolloutState, str]] = ..., stage: _Optional[int] = ..., plan: _Optional[_Union[RolloutPlan, _Mapping]] = ..., base_revision: _Optional[int] = ...) -> None: ...

class Channel(_message.Message):
    __slots__ = ("model", "name", "version", "revision", "epoch", "held", "history", "rollout")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    model: str
    name: str
    version: int
    revision: int
    epoch: int
    held: bool
    history: _containers.RepeatedCompositeFieldContainer[ChannelMove]
    rollout: Rollout
    def __init__(self, model: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[int] = ..., revision: _Optional[int] = ..., epoch: _Optional[int] = ..., held: _Optional[bool] = ..., history: _Optional[_Iterable[_Union[ChannelMove, _Mapping]]] = ..., rollout: _Optional[_Union[Rollout, _Mapping]] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("version", "holder", "expire_time_ms")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    version: int
    holder: str
    expire_time_ms: int
    def __init__(self, version: _Optional[int] = ..., holder: _Optional[str] = ..., expire_time_ms: _Optional[int] = ...) -> None: ...

class Record(_message.Message):
    __slots__ = ("payload", "digest")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    digest: str
    def __init__(self, payload: _Optional[bytes] = ..., digest: _Optional[str] = ...) -> None: ...

class Line(_message.Message):
    __slots__ = ("epoch", "owner", "newest", "manifest", "commit_id", "channels", "revision", "write_id", "gaps", "leases", "collections")
    class Pointer(_message.Message):
        __slots__ = ("name", "record")
        NAME_FIELD_NUMBER: _ClassVar[int]
        RECORD_FIELD_NUMBER: _ClassVar[int]
        name: str
        record: bytes
        def __init__(self, name: _Optional[str] = ..., record: _Optional[bytes] = ...) -> None: ...
    class Gap(_message.Message):
        __slots__ = ("first", "last")
        FIRST_FIELD_NUMBER: _ClassVar[int]
        LAST_FIELD_NUMBER: _ClassVar[int]
        first: int
        last: int
        def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ...) -> None: ...
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    COMMIT_ID_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    WRITE_ID_FIELD_NUMBER: _ClassVar[int]
    GAPS_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    owner: str
    newest: int
    manifest: bytes
    commit_id: str
    channels: _containers.RepeatedCompositeFieldContainer[Line.Pointer]
    revision: int
    write_id: str
    gaps: _containers.RepeatedCompositeFieldContainer[Line.Gap]
    leases: _containers.RepeatedCompositeFieldContainer[Lease]
    collections: int
    def __init__(self, epoch: _Optional[int] = ..., owner: _Optional[str] = ..., newest: _Optional[int] = ..., manifest: _Optional[bytes] = ..., commit_id: _Optional[str] = ..., channels: _Optional[_Iterable[_Union[Line.Pointer, _Mapping]]] = ..., revision: _Optional[int] = ..., write_id: _Optional[str] = ..., gaps: _Optional[_Iterable[_Union[Line.Gap, _Mapping]]] = ..., leases: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ..., collections: _Optional[int] = ...) -> None: ...
