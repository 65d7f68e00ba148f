from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DeltaEncoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DELTA_ENCODING_UNSPECIFIED: _ClassVar[DeltaEncoding]
    DELTA_ENCODING_STEPS: _ClassVar[DeltaEncoding]
    DELTA_ENCODING_WHOLE: _ClassVar[DeltaEncoding]
DELTA_ENCODING_UNSPECIFIED: DeltaEncoding
DELTA_ENCODING_STEPS: DeltaEncoding
DELTA_ENCODING_WHOLE: DeltaEncoding

class TensorDelta(_message.Message):
    __slots__ = ("names", "datatype", "size_bytes", "encoding", "base_digest", "digest", "changed", "gap_bytes", "step_bytes", "whole_bytes")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    GAP_BYTES_FIELD_NUMBER: _ClassVar[int]
    STEP_BYTES_FIELD_NUMBER: _ClassVar[int]
    WHOLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    datatype: str
    size_bytes: int
    encoding: DeltaEncoding
    base_digest: bytes
    digest: bytes
    changed: _containers.RepeatedScalarFieldContainer[int]
    gap_bytes: _containers.RepeatedScalarFieldContainer[int]
    step_bytes: _containers.RepeatedScalarFieldContainer[int]
    whole_bytes: int
    def __init__(self, names: _Optional[_Iterable[str]] = ..., datatype: _Optional[str] = ..., size_bytes: _Optional[int] = ..., encoding: _Optional[_Union[DeltaEncoding, str]] = ..., base_digest: _Optional[bytes] = ..., digest: _Optional[bytes] = ..., changed: _Optional[_Iterable[int]] = ..., gap_bytes: _Optional[_Iterable[int]] = ..., step_bytes: _Optional[_Iterable[int]] = ..., whole_bytes: _Optional[int] = ...) -> None: ...

class Delta(_message.Message):
    __slots__ = ("format", "model", "base_version", "tensors")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    format: int
    model: str
    base_version: int
    tensors: _containers.RepeatedCompositeFieldContainer[TensorDelta]
    def __init__(self, format: _Optional[int] = ..., model: _Optional[str] = ..., base_version: _Optional[int] = ..., tensors: _Optional[_Iterable[_Union[TensorDelta, _Mapping]]] = ...) -> None: ...
