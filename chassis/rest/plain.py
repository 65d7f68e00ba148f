"""A message as plain JSON values, under the names that the protocol gives its fields.

Unlike protobuf's own JSON, 64-bit integers are numbers, as Triton writes them.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from chassis.rest.json_text import Object


def plain(message: Message) -> Object:
    """Every field; of a oneof and of messages within only those that are set."""
    told: Object = {}
    for field in message.DESCRIPTOR.fields:
        absent = field.has_presence and not message.HasField(field.name)
        if not absent:
            told[field.name] = _value(field, getattr(message, field.name))
    return told


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        of_value = field.message_type.fields_by_name["value"]
        return {str(key): _value(of_value, item) for key, item in value.items()}
    if isinstance(value, Message):
        return plain(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (str, bool, float)):
        return value
    if isinstance(value, int):
        return _number(field, value)
    return [_value(field, item) for item in value]


def _number(field: Any, value: int) -> int | str:
    if field.enum_type is None:
        return value
    named = field.enum_type.values_by_number.get(value)
    return named.name if named else value
