"""The changed words of a tensor as two streams: how far apart they lie, how far they moved.

Decides the coding of one segment. A step is counted on an integer line on which the next float is
one away, so that most steps of a training run are +1 or -1. Both streams are bytes, 255 standing
for a number that follows behind them in full width, and both are compressed. Which tensors and
segments there are is left to `model_store.delta`.

Source: sparse lossless weight updates as in PULSE (arXiv 2602.03839).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from chassis.errors import DataLoss
from chassis.tensors import ELEMENT_BYTES

# Unsigned integers of one width.
Words = npt.NDArray[Any]

# Words coded together: bounds what coding needs in memory, and stays in the cache.
SEGMENT_WORDS = 1024 * 1024

# Stands for a number of 255 or more, which follows the bytes.
_ESCAPE = 255
_GAP = np.dtype("<u4")
# Measured on BF16 with 0.4 to 9 % of the words changed: level 3 takes off 0.3 to 2.3 %, level 6 up
# to 4 %. Where all FP32 words change, level 3 is larger and takes a third longer.
_LEVEL = 1
_FLOATS = {"FP16", "BF16", "FP32", "FP64"}


@dataclass(frozen=True, slots=True)
class Segment:
    """What changed in up to `SEGMENT_WORDS` words; both streams are empty where nothing did."""

    changed: int
    gaps: bytes | memoryview
    steps: bytes | memoryview


def words_of(content: memoryview, datatype: str) -> Words:
    """The content as unsigned words, one an element, not copied."""
    return np.frombuffer(content, dtype=f"<u{ELEMENT_BYTES[datatype]}")


def difference(before: Words, after: Words, datatype: str) -> Segment:
    """What turns `before` into `after`; both of one length, up to `SEGMENT_WORDS`."""
    at = np.flatnonzero(before != after)
    if not at.size:
        return Segment(0, b"", b"")
    gaps = np.diff(at, prepend=-1) - 1
    moved = _on_line(after[at], datatype) - _on_line(before[at], datatype)
    # A changed word moved, so that 0 stands for the smallest move there is.
    steps = _zigzag(moved) - moved.dtype.type(1)
    return Segment(at.size, _packed(gaps, _GAP), _packed(steps, moved.dtype))


def apply(segment: Segment, words: Words, datatype: str) -> None:
    """Makes the changes in `words`, in place; for the words that the difference was taken from.

    Raises DataLoss (DELTA_DAMAGED), and has then changed nothing.
    """
    if not segment.changed:
        return
    if segment.changed > words.size:
        raise damaged(f"{segment.changed} of {words.size} words would change")
    gaps = _unpacked(segment.gaps, segment.changed, _GAP)
    at = np.cumsum(gaps, dtype=np.int64) + np.arange(segment.changed)
    if at[-1] >= words.size:
        raise damaged(f"it changes a word beyond the {words.size} there are")
    steps = _unpacked(segment.steps, segment.changed, words.dtype)
    moved = _unzigzag(steps + words.dtype.type(1))
    words[at] = _off_line(_on_line(words[at], datatype) + moved, datatype)


def deflated(content: bytes | memoryview) -> bytes:
    """One zstd frame that says how much it holds."""
    return zstandard.ZstdCompressor(level=_LEVEL).compress(content)


def inflated(frame: bytes | memoryview, most_bytes: int) -> bytes:
    """The content of a frame. Raises DataLoss (DELTA_DAMAGED) where that is over `most_bytes`."""
    try:
        # Asked first: the size in the frame is what decompressing allocates.
        size_bytes = zstandard.get_frame_parameters(frame).content_size
        if not 0 < size_bytes <= most_bytes:
            raise damaged(f"a stream claims {size_bytes} bytes where {most_bytes} are the most")
        content = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise damaged("a stream is no zstd frame") from error
    if len(content) != size_bytes:
        raise damaged(f"a stream claims {size_bytes} bytes and holds {len(content)}")
    return content


def damaged(why: str) -> DataLoss:
    """The error for a delta that its writer cannot have meant."""
    return DataLoss("DELTA_DAMAGED", f"the delta cannot be read: {why}")


def _packed(numbers: npt.NDArray[Any], wide: np.dtype[Any]) -> bytes:
    small = np.minimum(numbers, _ESCAPE).astype(np.uint8)
    large = numbers[small == _ESCAPE].astype(wide)
    return deflated(small.tobytes() + large.tobytes())


def _unpacked(frame: bytes | memoryview, count: int, wide: np.dtype[Any]) -> Words:
    content = inflated(frame, count * (1 + wide.itemsize))
    if len(content) < count:
        raise damaged(f"a stream holds {len(content)} bytes for {count} changes")
    small = np.frombuffer(content, np.uint8, count)
    escaped = small == _ESCAPE
    if len(content) - count != np.count_nonzero(escaped) * wide.itemsize:
        raise damaged(f"a stream of {count} changes holds {len(content)} bytes")
    numbers = small.astype(wide)
    numbers[escaped] = np.frombuffer(content, wide, offset=count)
    return numbers


def _on_line(words: Words, datatype: str) -> Words:
    """Floats in the order of their values: -0 lies one below 0, NaNs at the ends."""
    if datatype not in _FLOATS:
        return words
    sign = words.dtype.itemsize * 8 - 1
    # Negative ones are turned round, the others lie above all of them.
    turned: Words = np.negative(words >> sign) | words.dtype.type(1 << sign)
    return words ^ turned


def _off_line(places: Words, datatype: str) -> Words:
    if datatype not in _FLOATS:
        return places
    sign = places.dtype.itemsize * 8 - 1
    turned: Words = ((places >> sign) - places.dtype.type(1)) | places.dtype.type(1 << sign)
    return places ^ turned


def _zigzag(moved: Words) -> Words:
    """0, -1, 1, -2, ... as 0, 1, 2, 3, ...; a step wraps at the end of the line."""
    turned: Words = np.negative(moved >> (moved.dtype.itemsize * 8 - 1))
    return (moved << 1) ^ turned


def _unzigzag(coded: Words) -> Words:
    turned: Words = np.negative(coded & coded.dtype.type(1))
    return (coded >> 1) ^ turned
