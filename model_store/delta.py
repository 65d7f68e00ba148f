"""One version's tensors as changes of another's, in one blob: lossless, checked, bounded.

    magic, 8 bytes | header length, 4 bytes | Delta message | streams, in the header's order

Decides which tensors are worth a delta and what a blob may claim: every size is checked against the
tensor's own before anything is allocated, and whatever is wrong with a blob is DataLoss. A delta
names what it applies to, by version and by digest. Knows bytes and digests; whether the result is
right is for the reader to digest, the words' coding is `model_store.word_steps`.

Source: PULSE (arXiv 2602.03839) found about 99 % of the BF16 words unchanged by a training step;
of those that change, 85-90 % move to the next float (measured, docs/weights.md).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from chassis.errors import DataLoss
from chassis.tensors import ELEMENT_BYTES
from model_store import word_steps
from model_store.digests import digest_of_raw, raw_digest
from model_store.records import TensorEntry
from model_store.word_steps import SEGMENT_WORDS, Segment, damaged, deflated, inflated, words_of
from protos.headrace.v1 import delta_pb2

FORMAT = 1

# Beyond this part of a tensor, its own blob costs a reader less work and hardly more bytes.
WORTH_IT = 0.4

# Tensors below this are never blobs of their own beside a delta: one costs more than its bytes.
SMALL_BYTES = 64 * 1024

# Enough to see that a tensor is hopeless, in half a millisecond.
_SAMPLE_WORDS = 16 * 1024

_MAGIC = b"HRDELTA\x01"
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class TensorDelta:
    """How the tensors of these names become what `digest` names; they are several where tied.

    From the bytes that `base_digest` names by `segments`; or, where that is empty, by `whole`.
    """

    names: tuple[str, ...]
    datatype: str
    size_bytes: int
    base_digest: str
    digest: str
    segments: tuple[Segment, ...] = ()
    whole: bytes | memoryview = b""

    def apply(self, content: memoryview) -> None:
        """Turns `content`, writable and of `size_bytes`, into the tensor it becomes, in place.

        Needs memory for the changes of one segment, or for a whole tensor below `SMALL_BYTES`.
        Raises DataLoss (DELTA_DAMAGED); `content` is then of no use.
        """
        if len(content) != self.size_bytes:
            raise self._of_size(len(content))
        if not self.base_digest:
            content[:] = self._inflated()
            return
        words = words_of(content, self.datatype)
        for index, segment in enumerate(self.segments):
            part = words[index * SEGMENT_WORDS :][:SEGMENT_WORDS]
            word_steps.apply(segment, part, self.datatype)

    def stored_bytes(self) -> int:
        """The size of its streams."""
        return len(self.whole) + sum(len(s.gaps) + len(s.steps) for s in self.segments)

    def _inflated(self) -> bytes:
        content = inflated(self.whole, self.size_bytes)
        if len(content) != self.size_bytes:
            raise self._of_size(len(content))
        return content

    def _of_size(self, size_bytes: int) -> DataLoss:
        return damaged(f"tensor {self.names[0]!r} is {size_bytes} bytes, not {self.size_bytes}")


def difference(
    old: TensorEntry,
    new: TensorEntry,
    before: memoryview,
    after: memoryview,
    names: tuple[str, ...] = (),
) -> TensorDelta | None:
    """What makes `new` of `old`, entries of one datatype and size; None where it is not worth it.

    A small tensor always is: whole, if that is less. `names` are those of tied tensors.
    """
    names = names or (new.name,)
    most = int(len(after) * WORTH_IT)
    segments = _segments(words_of(before, new.datatype), words_of(after, new.datatype), most, new)
    stepped = None
    if segments is not None:
        stepped = _tensor_delta(new, names, base_digest=old.digest, segments=segments)
    if len(after) >= SMALL_BYTES:
        return stepped
    whole = _tensor_delta(new, names, whole=deflated(after))
    if stepped is None or whole.stored_bytes() < stepped.stored_bytes():
        return whole
    return stepped


def encode(model: str, base_version: int, tensors: Sequence[TensorDelta]) -> bytes:
    """The blob of a step from `base_version`; `tensors` are ordered by first name."""
    header = delta_pb2.Delta(
        format=FORMAT,
        model=model,
        base_version=base_version,
        tensors=[_message(tensor) for tensor in tensors],
    ).SerializeToString(deterministic=True)
    streams = [stream for tensor in tensors for stream in _streams(tensor)]
    return b"".join([_MAGIC, _LENGTH.pack(len(header)), header, *streams])


def decode(blob: bytes, model: str, base_version: int) -> dict[str, TensorDelta]:
    """The changes by tensor's name; their streams are views of `blob`.

    Raises DataLoss (DELTA_DAMAGED, DELTA_BASE_MISMATCH): the latter for a delta that applies to
    another model or version.
    """
    start = len(_MAGIC) + _LENGTH.size
    if blob[: len(_MAGIC)] != _MAGIC or len(blob) < start:
        raise damaged("it does not begin as a delta does")
    (length,) = _LENGTH.unpack_from(blob, len(_MAGIC))
    if length > len(blob) - start:
        raise damaged(f"its header claims {length} of {len(blob)} bytes")
    header = _parsed(blob[start : start + length])
    if (header.model, header.base_version) != (model, base_version):
        raise DataLoss(
            "DELTA_BASE_MISMATCH",
            f"the delta applies to version {header.base_version} of model {header.model[:80]!r}, "
            f"not to version {base_version} of {model!r}",
        )
    rest = _Streams(memoryview(blob)[start + length :])
    tensors = [_decoded(message, rest) for message in header.tensors]
    found = {name: tensor for tensor in tensors for name in tensor.names}
    if rest.left or len(found) != sum(len(tensor.names) for tensor in tensors):
        raise damaged("its streams are not those that its header lists")
    return found


def _parsed(content: bytes) -> delta_pb2.Delta:
    header = delta_pb2.Delta()
    try:
        header.ParseFromString(content)
    except DecodeError as error:
        raise damaged("its header cannot be parsed") from error
    if header.format != FORMAT:
        raise damaged(f"it has format {header.format}; format {FORMAT} is known here")
    return header


class _Streams:
    """What of the blob has not been given out."""

    def __init__(self, content: memoryview) -> None:
        self._content = content

    @property
    def left(self) -> int:
        return len(self._content)

    def take(self, size_bytes: int) -> memoryview:
        if size_bytes > len(self._content):
            raise damaged(f"a stream of {size_bytes} bytes goes beyond its end")
        taken, self._content = self._content[:size_bytes], self._content[size_bytes:]
        return taken


def _decoded(message: delta_pb2.TensorDelta, rest: _Streams) -> TensorDelta:
    if not message.names:
        raise damaged("it changes a tensor without a name")
    name, size_bytes = message.names[0][:80], message.size_bytes
    width = ELEMENT_BYTES.get(message.datatype)
    if width is None or size_bytes < 0 or size_bytes % width:
        raise damaged(f"tensor {name!r} is {size_bytes} bytes of {message.datatype[:80]!r}")
    if message.encoding not in (
        delta_pb2.DELTA_ENCODING_STEPS,
        delta_pb2.DELTA_ENCODING_WHOLE,
    ):
        raise damaged(f"tensor {name!r} has encoding {message.encoding}, unknown here")
    whole = message.encoding == delta_pb2.DELTA_ENCODING_WHOLE
    if len(message.digest) != 32 or len(message.base_digest) != (0 if whole else 32):
        raise damaged(f"tensor {name!r} has digests of another length")
    count = 0 if whole else -(-size_bytes // (width * SEGMENT_WORDS))
    sizes = (message.changed, message.gap_bytes, message.step_bytes)
    if any(len(numbers) != count for numbers in sizes):
        raise damaged(f"tensor {name!r} lists other than its {count} segments")
    return TensorDelta(
        tuple(message.names),
        message.datatype,
        size_bytes,
        "" if whole else digest_of_raw(message.base_digest),
        digest_of_raw(message.digest),
        tuple(
            Segment(changed, rest.take(gap_bytes), rest.take(step_bytes))
            for changed, gap_bytes, step_bytes in zip(*sizes, strict=True)
        ),
        rest.take(message.whole_bytes),
    )


def _segments(
    before: word_steps.Words, after: word_steps.Words, most: int, entry: TensorEntry
) -> tuple[Segment, ...] | None:
    """All segments; None once they exceed `most` bytes, or where a sample says that they would."""
    if len(after) > 2 * _SAMPLE_WORDS:
        middle = slice(len(after) // 2, len(after) // 2 + _SAMPLE_WORDS)
        sample = word_steps.difference(before[middle], after[middle], entry.datatype)
        size_bytes = _SAMPLE_WORDS * after.itemsize
        # With room for a sample that is unlike the rest: this only saves work.
        if len(sample.gaps) + len(sample.steps) > 1.5 * WORTH_IT * size_bytes:
            return None
    found = []
    for at in range(0, len(after), SEGMENT_WORDS):
        part = slice(at, at + SEGMENT_WORDS)
        segment = word_steps.difference(before[part], after[part], entry.datatype)
        most -= len(segment.gaps) + len(segment.steps)
        if most < 0:
            return None
        found.append(segment)
    return tuple(found)


def _tensor_delta(
    entry: TensorEntry,
    names: tuple[str, ...],
    *,
    base_digest: str = "",
    segments: tuple[Segment, ...] = (),
    whole: bytes = b"",
) -> TensorDelta:
    return TensorDelta(
        names, entry.datatype, entry.size_bytes, base_digest, entry.digest, segments, whole
    )


def _message(tensor: TensorDelta) -> delta_pb2.TensorDelta:
    whole = not tensor.base_digest
    encoding = delta_pb2.DELTA_ENCODING_WHOLE if whole else delta_pb2.DELTA_ENCODING_STEPS
    return delta_pb2.TensorDelta(
        names=tensor.names,
        datatype=tensor.datatype,
        size_bytes=tensor.size_bytes,
        encoding=encoding,
        base_digest=b"" if whole else raw_digest(tensor.base_digest),
        digest=raw_digest(tensor.digest),
        changed=[segment.changed for segment in tensor.segments],
        gap_bytes=[len(segment.gaps) for segment in tensor.segments],
        step_bytes=[len(segment.steps) for segment in tensor.segments],
        whole_bytes=len(tensor.whole),
    )


def _streams(tensor: TensorDelta) -> Iterator[bytes | memoryview]:
    for segment in tensor.segments:
        yield segment.gaps
        yield segment.steps
    yield tensor.whole
