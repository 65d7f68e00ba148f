"""The private descriptor pool and the message classes made from it.

Two descriptors of one full name cannot live in protobuf's default pool, and every OIP client
registers `inference.*` there. The bytes on the wire are the same whichever pool a class is from.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

DESCRIPTOR_SET = Path(__file__).with_name("descriptors.binpb")


def _load() -> tuple[descriptor_pool.DescriptorPool, tuple[Any, ...]]:
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTOR_SET.read_bytes())
    for file in files.file:
        pool.Add(file)
    classes: list[Any] = []
    for file in files.file:
        for message in pool.FindFileByName(file.name).message_types_by_name.values():
            classes += _classes(message)
    return pool, tuple(classes)


def _classes(message: Any) -> Iterator[Any]:
    yield message_factory.GetMessageClass(message)
    for nested in message.nested_types:
        yield from _classes(nested)


# The classes of nested messages are made when they are first met, and nothing else holds them: the
# garbage collector took them with every few requests. What it was clearing just then could be found
# again by protobuf and used (a segmentation fault in PyUpb_Descriptor_GetDef, seen once in some
# hundred thousand hostile requests). Held here they are made once.
POOL, _CLASSES = _load()


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
