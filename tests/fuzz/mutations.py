"""Valid messages damaged at random: bytes, lengths and whole protobuf fields; seeded."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

MOST_BYTES = 64 * 1024
_EDGES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF, 0x08, 0x0A, 0x0B, 0x0C)
_LONG_VARINTS = (
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\xff" * 11,
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00",
)

Mutation = Callable[[random.Random, bytearray, Sequence[bytes]], bytearray]


def mutated(draw: random.Random, valid: bytes, others: Sequence[bytes]) -> bytes:
    """`valid` after one to four mutations; `others` are messages to splice from."""
    content = bytearray(valid)
    for _ in range(draw.randint(1, 4)):
        content = draw.choice(MUTATIONS)(draw, content, others)
    return bytes(content[:MOST_BYTES])


def fields_of(content: bytes) -> list[tuple[int, int]]:
    """(start, end) of the top-level fields, as far as they can be read."""
    found, at = [], 0
    while at < len(content):
        start = at
        tag, at = _varint(content, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(content, at)
        elif kind == 2:
            size, at = _varint(content, at)
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            break
        if at > len(content):
            break
        found.append((start, at))
    return found


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(content) and shift < 70:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return value, at


def _slice(draw: random.Random, content: bytearray) -> slice:
    start = draw.randrange(len(content) + 1)
    return slice(start, start + draw.randint(1, 16))


def _flip(draw: random.Random, content: bytearray, _: Sequence[bytes]) -> bytearray:
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return content


def _edge(draw: random.Random, content: bytearray, _: Sequence[bytes]) -> bytearray:
    if content:
        content[draw.randrange(len(content))] = draw.choice(_EDGES)
    return content


def _insert(draw: random.Random, content: bytearray, _: Sequence[bytes]) -> bytearray:
    at = draw.randrange(len(content) + 1)
    content[at:at] = draw.randbytes(draw.randint(1, 8))
    return content


def _delete(draw: random.Random, content: bytearray, _: Sequence[bytes]) -> bytearray:
    del content[_slice(draw, content)]
    return content


def _repeat(draw: random.Random, content: bytearray, _: Sequence[bytes]) -> bytearray:
    part = content[_slice(draw, content)]
    at = draw.randrange(len(content) + 1)
    content[at:at] = part * draw.choice((1, 2, 50))
    return content


def _truncate(draw: random.Random, content: bytearray, _: Sequence[bytes]) -> bytearray:
    return content[: draw.randrange(len(content) + 1)]


def _splice(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> bytearray:
    other = draw.choice(others)
    return content[: draw.randrange(len(content) + 1)] + other[draw.randrange(len(other) + 1) :]


def _long_varint(draw: random.Random, content: bytearray, _: Sequence[bytes]) -> bytearray:
    at = draw.randrange(len(content) + 1)
    content[at : at + 1] = draw.choice(_LONG_VARINTS)
    return content


def _length(draw: random.Random, content: bytearray, _: Sequence[bytes]) -> bytearray:
    found = fields_of(content)
    if found:
        start, _end = draw.choice(found)
        if start + 1 < len(content):
            content[start + 1] = draw.choice((0, 1, 0x7F, content[start + 1] ^ 1))
    return content


def _drop_field(draw: random.Random, content: bytearray, _: Sequence[bytes]) -> bytearray:
    found = fields_of(content)
    if found:
        start, end = draw.choice(found)
        del content[start:end]
    return content


def _copy_field(draw: random.Random, content: bytearray, _: Sequence[bytes]) -> bytearray:
    found = fields_of(content)
    if found:
        start, end = draw.choice(found)
        content += content[start:end] * draw.choice((1, 2, 100))
    return content


def _shuffle_fields(draw: random.Random, content: bytearray, _: Sequence[bytes]) -> bytearray:
    found = fields_of(content)
    draw.shuffle(found)
    return bytearray().join(content[start:end] for start, end in found)


def _renumber_field(draw: random.Random, content: bytearray, _: Sequence[bytes]) -> bytearray:
    found = fields_of(content)
    if found:
        start, _end = draw.choice(found)
        content[start] = draw.randrange(16) << 3 | draw.randrange(8)
    return content


def _nest(draw: random.Random, content: bytearray, _: Sequence[bytes]) -> bytearray:
    """Groups in groups: parsers bound how deep they go."""
    return content + b"\x0b" * draw.choice((1, 99, 101, 5000))


def _oversized(draw: random.Random, content: bytearray, _: Sequence[bytes]) -> bytearray:
    """A field of many bytes under a number of the message or none."""
    size = draw.choice((1000, 20_000))
    return content + bytes([draw.randrange(1, 16) << 3 | 2]) + _encoded(size) + bytes(size)


def _encoded(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


MUTATIONS: tuple[Mutation, ...] = (
    _flip,
    _flip,
    _edge,
    _insert,
    _delete,
    _repeat,
    _truncate,
    _splice,
    _long_varint,
    _length,
    _drop_field,
    _copy_field,
    _shuffle_fields,
    _renumber_field,
    _nest,
    _oversized,
)
