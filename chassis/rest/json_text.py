"""JSON as it comes: an object within bounds, and typed looks at what it holds.

NaN, Infinity and -Infinity, which JSON lacks, are read as Triton's clients write them.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from chassis.errors import InvalidArgument, ResourceExhausted

Object = dict[str, Any]
_WORDS = (b"NaN", b"Infinity")


def parsed(text: bytes, limit: int) -> Object:
    """The object that `text` is; an empty text is an empty object.

    Raises InvalidArgument (MALFORMED_JSON), ResourceExhausted (JSON_TOO_LARGE).
    """
    if len(text) > limit:
        raise ResourceExhausted(
            "JSON_TOO_LARGE",
            f"the request holds {len(text)} bytes of JSON; the server takes at most {limit}: send "
            "tensors as binary data",
        )
    if not text:
        return {}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        value = _with_words(text, error)
    if type(value) is not dict:
        raise InvalidArgument("MALFORMED_JSON", "the body is not a JSON object")
    return value


def _with_words(text: bytes, error: orjson.JSONDecodeError) -> object:
    if any(word in text for word in _WORDS):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass
    raise InvalidArgument(
        "MALFORMED_JSON",
        f"the body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}",
    ) from None


def object_at(owner: Object, key: str, path: str) -> Object:
    """The object under `key`, empty if there is none. Raises InvalidArgument (BAD_JSON)."""
    value = owner.get(key)
    if value is None:
        return {}
    if type(value) is not dict:
        raise _not(path, "an object")
    return value


def list_at(owner: Object, key: str, path: str) -> list[Any]:
    """The list under `key`, empty if there is none. Raises InvalidArgument (BAD_JSON)."""
    value = owner.get(key)
    if value is None:
        return []
    if type(value) is not list:
        raise _not(path, "a list")
    return value


def text_at(owner: Object, key: str, path: str, default: str | None = None) -> str:
    """The string under `key`, which must be there without `default`.

    Raises InvalidArgument (BAD_JSON).
    """
    value = owner.get(key, default)
    if type(value) is not str:
        raise _not(path, "a string")
    return value


def flag_at(owner: Object, key: str, path: str, default: bool) -> bool:
    """The flag under `key`. Raises InvalidArgument (BAD_JSON)."""
    value = owner.get(key, default)
    if type(value) is not bool:
        raise _not(path, "true or false")
    return value


def count_at(owner: Object, key: str, path: str, default: int | None = None) -> int:
    """The integer of at least 0 under `key`, below 2**63. Raises InvalidArgument (BAD_JSON)."""
    value = owner.get(key, default)
    if type(value) is not int or not 0 <= value < 2**63:
        raise _not(path, "an integer of at least 0")
    return value


def _not(path: str, expected: str) -> InvalidArgument:
    return InvalidArgument(
        "BAD_JSON", f"{path} is missing or wrong; expected {expected}", field=path
    )
