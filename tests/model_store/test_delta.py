"""The delta codec: every bit comes back, and damaged or hostile bytes are DataLoss and no more."""

from __future__ import annotations

import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from chassis.errors import DataLoss
from chassis.tensors import ELEMENT_BYTES, NUMPY_TYPES
from model_store import delta, word_steps
from model_store.delta import SMALL_BYTES, TensorDelta
from model_store.digests import digest
from model_store.records import TensorEntry
from model_store.word_steps import SEGMENT_WORDS, Segment
from protos.headrace.v1 import delta_pb2

MODEL = "clicks"
DATATYPES = sorted(ELEMENT_BYTES)
FLOATS = ["FP16", "FP32", "FP64"]
SEEDS = st.integers(0, 2**32 - 1)


def entry(datatype: str, content: bytes, name: str = "w") -> TensorEntry:
    shape = (len(content) // ELEMENT_BYTES[datatype],)
    return TensorEntry(name, datatype, shape, digest(content), len(content))


def changed(datatype: str, before: bytes, after: bytes, name: str = "w") -> TensorDelta | None:
    old, new = entry(datatype, before, name), entry(datatype, after, name)
    return delta.difference(old, new, memoryview(before), memoryview(after))


def applied(blob: bytes, before: bytes, name: str = "w") -> bytes:
    content = bytearray(before)
    delta.decode(blob, MODEL, 7)[name].apply(memoryview(content))
    return bytes(content)


def stepped(datatype: str, before: bytes, after: bytes) -> bytes:
    """The blob of a tensor in steps, whether that is worth it or not."""
    words = [word_steps.words_of(memoryview(content), datatype) for content in (before, after)]
    segments = tuple(
        word_steps.difference(
            words[0][at : at + SEGMENT_WORDS], words[1][at : at + SEGMENT_WORDS], datatype
        )
        for at in range(0, len(words[0]), SEGMENT_WORDS)
    )
    tensor = TensorDelta(("w",), datatype, len(after), digest(before), digest(after), segments)
    return delta.encode(MODEL, 7, [tensor])


def drifted(
    datatype: str, words: int, seed: int, part: float, furthest: int
) -> tuple[bytes, bytes]:
    """Random words, and the same with a part of them moved by up to `furthest` bits patterns."""
    chance = np.random.default_rng(seed)
    width = ELEMENT_BYTES[datatype]
    before = np.frombuffer(chance.bytes(words * width), f"<u{width}")
    after = before.copy()
    moves = chance.random(words) < part
    most = min(furthest, 2 ** (8 * width) - 1)
    after[moves] += chance.integers(1, most, moves.sum(), endpoint=True, dtype=np.uint64).astype(
        after.dtype
    )
    return before.tobytes(), after.tobytes()


@given(
    st.sampled_from(DATATYPES),
    st.integers(0, 700),
    SEEDS,
    st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    st.sampled_from([1, 300, 2**70]),
)
@example("BOOL", 0, 0, 1.0, 1)
@example("FP64", 1, 0, 1.0, 2**70)
def test_any_bits_of_any_datatype_come_back(datatype, words, seed, part, furthest):
    before, after = drifted(datatype, words, seed, part, furthest)
    assert applied(stepped(datatype, before, after), before) == after


@given(st.sampled_from(DATATYPES), st.binary(max_size=64), st.binary(max_size=64))
def test_any_two_contents_of_one_size(datatype, before, after):
    width = ELEMENT_BYTES[datatype]
    size = min(len(before), len(after)) // width * width
    assert applied(stepped(datatype, before[:size], after[:size]), before[:size]) == after[:size]


@pytest.mark.parametrize("datatype", FLOATS)
def test_special_values_come_back_bit_by_bit(datatype):
    kind = NUMPY_TYPES[datatype]
    largest, least = np.finfo(kind).max, np.finfo(kind).smallest_subnormal
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, largest, -largest, least, -least]
    before = np.array([a for a in special for _ in special], kind).tobytes()
    after = np.array(special * len(special), kind).tobytes()
    assert applied(stepped(datatype, before, after), before) == after


@given(st.sampled_from(FLOATS), SEEDS)
def test_the_next_float_is_one_step_away(datatype, seed):
    """So it costs one byte before compression: nothing follows for words moved by one."""
    kind = NUMPY_TYPES[datatype]
    before = np.random.default_rng(seed).standard_normal(50).astype(kind)
    before[:2] = (0.0, -np.finfo(kind).smallest_subnormal)
    up = np.nextafter(before, np.array(np.inf, kind))
    words = [word_steps.words_of(memoryview(a).cast("B"), datatype) for a in (before, up)]
    forward = word_steps.difference(*words, datatype)
    back = word_steps.difference(*words[::-1], datatype)
    steps = [zstandard.decompress(bytes(s.steps)) for s in (forward, back)]
    # -0 lies between the least negative number and 0, and nextafter passes it over.
    assert set(steps[0]) <= {1, 3} and set(steps[1]) <= {0, 2}
    assert steps[0].count(1) >= 49


def test_bfloat16_steps_over_the_exponent():
    before, after = (np.array([bits], "<u2").tobytes() for bits in (0x3F7F, 0x3F80))
    found = changed("BF16", before * 3, after * 3)
    words = [word_steps.words_of(memoryview(content), "BF16") for content in (before, after)]
    assert zstandard.decompress(word_steps.difference(*words, "BF16").steps) == b"\x01"
    assert found is not None and applied(delta.encode(MODEL, 7, [found]), before * 3) == after * 3


def test_a_tensor_of_several_segments():
    words = 2 * SEGMENT_WORDS + 1000
    before = np.zeros(words, "<u2")
    after = before.copy()
    for at in (0, SEGMENT_WORDS - 1, SEGMENT_WORDS, words - 1):
        after[at] += 1
    found = changed("BF16", before.tobytes(), after.tobytes())
    assert [segment.changed for segment in found.segments] == [2, 1, 1]
    blob = delta.encode(MODEL, 7, [found])
    assert len(blob) < 400
    assert applied(blob, before.tobytes()) == after.tobytes()


def test_a_sparse_change_is_small():
    """1.3 % of the words to the next float, as a training step at a learning rate of 1e-6."""
    before, after = drifted("BF16", 1_000_000, 1, 0.013, 1)
    found = changed("BF16", before, after)
    assert found.stored_bytes() * 100 < len(after)
    assert found.base_digest == digest(before)


def test_a_dense_change_is_not_worth_a_delta():
    before, after = drifted("FP32", 100_000, 1, 1.0, 2**31)
    assert changed("FP32", before, after) is None
    # Where only a part is dense, the sample in the middle does not show it.
    half = len(before) // 4 * 2
    assert changed("FP32", before + bytes(half), after + bytes(half)) is None


def test_a_small_tensor_travels_whole_where_that_is_less():
    before, after = drifted("FP32", 1000, 1, 1.0, 2**31)
    assert len(before) < SMALL_BYTES
    found = changed("FP32", before, after)
    assert (found.base_digest, found.segments) == ("", ())
    # No base is needed: whatever was there is gone.
    assert applied(delta.encode(MODEL, 7, [found]), bytes(len(before))) == after


def test_several_tensors_and_tied_ones():
    tensors, contents = [], {}
    for name, datatype in (("a", "FP32"), ("b", "INT8"), ("c", "BOOL")):
        before, after = drifted(datatype, 400, 5, 0.05, 1)
        contents[name] = (before, after)
        tensors.append(changed(datatype, before, after, name))
    tensors[1] = replace(tensors[1], names=("b", "tied"))
    contents["tied"] = contents["b"]
    blob = delta.encode(MODEL, 7, tensors)
    assert delta.decode(blob, MODEL, 7).keys() == contents.keys()
    for name, (before, after) in contents.items():
        assert applied(blob, before, name) == after


def test_a_delta_is_refused_on_another_version_or_model():
    blob = stepped("FP32", bytes(8), b"\x01" + bytes(7))
    for model, version in ((MODEL, 8), ("other", 7)):
        with pytest.raises(DataLoss) as caught:
            delta.decode(blob, model, version)
        assert caught.value.reason == "DELTA_BASE_MISMATCH"
        assert "applies to version 7 of model 'clicks'" in caught.value.message


# Hostile bytes.

SAMPLE = drifted("BF16", 3000, 3, 0.1, 300)
BLOB = delta.encode(
    MODEL,
    7,
    [
        changed("BF16", *SAMPLE),
        changed("FP32", *drifted("FP32", 100, 3, 1.0, 2**31), "whole"),
    ],
)


def read_all(blob: bytes) -> None:
    """Decodes and applies; DataLoss is the only error there may be."""
    try:
        found = delta.decode(blob, MODEL, 7)
        for tensor in found.values():
            tensor.apply(memoryview(bytearray(min(tensor.size_bytes, 1 << 16))))
    except DataLoss as error:
        assert error.reason in ("DELTA_DAMAGED", "DELTA_BASE_MISMATCH")


def test_every_truncation_is_damage():
    for cut in range(len(BLOB)):
        with pytest.raises(DataLoss) as caught:
            delta.decode(BLOB[:cut], MODEL, 7)
        assert caught.value.reason == "DELTA_DAMAGED"


@given(st.integers(0, len(BLOB) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_damage_or_another_result(at, bit):
    flipped = bytearray(BLOB)
    flipped[at] ^= 1 << bit
    read_all(bytes(flipped))


@given(st.binary(max_size=400))
def test_any_bytes_are_damage(content):
    with pytest.raises(DataLoss):
        delta.decode(content, MODEL, 7)


@given(st.binary(max_size=300), st.binary(max_size=100))
def test_any_header_is_data_loss_or_read(header, streams):
    read_all(BLOB[:8] + struct.pack("<I", len(header)) + header + streams)


HOSTILE = st.builds(
    delta_pb2.TensorDelta,
    names=st.lists(st.sampled_from(["w", "v", ""]), max_size=2),
    datatype=st.sampled_from(["FP32", "BF16", "BYTES", "", "INT8"]),
    size_bytes=st.sampled_from([-4, 0, 3, 4, 4000, 2**40, 2**62]),
    encoding=st.sampled_from([0, 1, 2, 9]),
    base_digest=st.sampled_from([b"", bytes(32), bytes(31)]),
    digest=st.sampled_from([b"", bytes(32)]),
    changed=st.lists(st.integers(0, 2**32 - 1), max_size=2),
    gap_bytes=st.lists(st.sampled_from([0, 9, 20, 2**32 - 1]), max_size=2),
    step_bytes=st.lists(st.sampled_from([0, 9, 20, 2**32 - 1]), max_size=2),
    whole_bytes=st.sampled_from([0, 9, 20, 2**32 - 1]),
)


@given(st.lists(HOSTILE, max_size=3), st.binary(max_size=60))
def test_a_header_that_lies_is_data_loss_or_read(tensors, streams):
    header = delta_pb2.Delta(format=1, model=MODEL, base_version=7, tensors=tensors)
    content = header.SerializeToString()
    read_all(BLOB[:8] + struct.pack("<I", len(content)) + content + streams)


@given(SEEDS, st.binary(min_size=1, max_size=40), st.booleans(), st.integers(0, 60))
def test_hostile_streams_are_data_loss_or_read(seed, content, framed, count):
    gaps = zstandard.compress(content) if framed else content
    steps = zstandard.compress(np.random.default_rng(seed).bytes(count + seed % 3) or b"x")
    segment = Segment(count, gaps, steps)
    tensor = TensorDelta(("w",), "FP32", 200, digest(b"a"), digest(b"b"), (segment,))
    read_all(delta.encode(MODEL, 7, [tensor]))


def test_an_unknown_format_is_refused():
    content = delta_pb2.Delta(format=2, model=MODEL, base_version=7).SerializeToString()
    with pytest.raises(DataLoss, match="format 2; format 1 is known"):
        delta.decode(BLOB[:8] + struct.pack("<I", len(content)) + content, MODEL, 7)


@pytest.mark.parametrize("claim", ["stream", "whole"])
def test_a_claim_of_much_allocates_little(claim):
    """A frame that says it holds 64 MiB is refused before anything is allocated for it."""
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 26))
    segment = Segment(10, bomb, bomb)
    tensor = TensorDelta(("w",), "FP32", 200, digest(b"a"), digest(b"b"), (segment,))
    if claim == "whole":
        tensor = TensorDelta(("w",), "FP32", 200, "", digest(b"b"), (), bomb)
    blob = delta.encode(MODEL, 7, [tensor])
    tracemalloc.start()
    try:
        with pytest.raises(DataLoss, match="a stream claims 67108864 bytes"):
            applied(blob, bytes(200))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_applying_takes_memory_for_one_segment():
    words = 8 * SEGMENT_WORDS
    before = bytes(2 * words)
    after = np.zeros(words, "<u2")
    after[::50] = 1
    blob = delta.encode(MODEL, 7, [changed("BF16", before, after.tobytes())])
    content = bytearray(before)
    change = delta.decode(blob, MODEL, 7)["w"]
    tracemalloc.start()
    try:
        change.apply(memoryview(content))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert content == after.tobytes()


def test_the_wrong_memory_is_refused():
    with pytest.raises(DataLoss, match="'w' is 4 bytes, not 8"):
        applied(stepped("FP32", bytes(8), b"\x01" + bytes(7)), bytes(4))
