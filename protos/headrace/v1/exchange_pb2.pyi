from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ReadBlobRequest(_message.Message):
    __slots__ = ("digest", "via")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    VIA_FIELD_NUMBER: _ClassVar[int]
    digest: str
    via: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, digest: _Optional[str] = ..., via: _Optional[_Iterable[str]] = ...) -> None: ...

class ReadBlobResponse(_message.Message):
    __slots__ = ("size_bytes", "content")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    content: bytes
    def __init__(self, size_bytes: _Optional[int] = ..., content: _Optional[bytes] = ...) -> None: ...
