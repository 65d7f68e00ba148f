"""The private descriptor pool and the message classes made from it.

Two descriptors of one full name cannot live in protobuf's default pool, and every OIP client
registers `inference.*` there. The bytes on the wire are the same whichever pool a class is from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

DESCRIPTOR_SET = Path(__file__).with_name("descriptors.binpb")


def _load() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTOR_SET.read_bytes())
    for file in files.file:
        pool.Add(file)
    return pool


POOL = _load()


def message_class(descriptor: Any) -> Any:
    """The class of a message descriptor of POOL."""
    return message_factory.GetMessageClass(descriptor)


def module_members(file_name: str) -> dict[str, Any]:
    """The names a protoc-generated module of this .proto file would define."""
    file = POOL.FindFileByName(file_name)
    members: dict[str, Any] = {"DESCRIPTOR": file}
    for name, message in file.message_types_by_name.items():
        members[name] = message_class(message)
    for name, enum in file.enum_types_by_name.items():
        members[name] = EnumTypeWrapper(enum)
        members.update({value.name: value.number for value in enum.values})
    return members
