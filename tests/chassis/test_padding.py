"""Inputs filled up to a bucket, outputs cut back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.errors import InvalidArgument
from chassis.padding import bucket, cut, padder_of
from chassis.tensors import NUMPY_TYPES, Padding, Signature, TensorSpec, fill_element

TOKENS = Signature(
    (TensorSpec("tokens", "INT32", (-1, -1)), TensorSpec("mask", "BF16", (-1, -1, 2))),
    (TensorSpec("y", "FP32", (-1, -1)), TensorSpec("total", "FP32", (-1, 1))),
    8,
    padding=(Padding(1, (2, 4), (("tokens", -7), ("mask", 1.5)), ("y",)),),
)
# Two axes, no batch.
IMAGE = Signature(
    (TensorSpec("x", "UINT8", (-1, -1)),),
    (TensorSpec("y", "UINT8", (-1, -1)),),
    0,
    padding=(Padding(0, (4,), (("x", 9),), ("y",)), Padding(1, (3, 6), (("x", 9),), ("y",))),
)


@pytest.mark.parametrize(
    ("size", "found"), [(0, 2), (1, 2), (2, 2), (3, 4), (4, 4), (5, 5), (99, 99)]
)
def test_the_smallest_bucket_that_holds_it(size, found):
    assert bucket(size, (2, 4)) == found


def test_requests_of_one_bucket_are_joined_with_filler():
    padder = padder_of(TOKENS)
    assert padder.padded([(1, 3), (1, 3, 2)]) == [(1, 4), (1, 4, 2)]
    one, two = np.array([[1, 2, 3]], np.int32), np.array([[4], [5]], np.int32)
    raw = padder.joined(
        0, [(one.tobytes(), (1, 3)), (two.tobytes(), (2, 1))], rows=(1, 2), shape=(3, 4)
    )
    assert np.frombuffer(raw, np.int32).reshape(3, 4).tolist() == [
        [1, 2, 3, -7],
        [4, -7, -7, -7],
        [5, -7, -7, -7],
    ]
    mask = padder.joined(1, [(bytes(12), (1, 3, 2))], rows=(1,), shape=(1, 4, 2))
    assert np.frombuffer(mask, np.uint16).tolist() == [0] * 6 + [0x3FC0] * 2


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6)), min_size=1, max_size=5))
def test_joined_and_cut_each_part_is_what_it_was(sizes):
    padder = padder_of(TOKENS)
    width = max(padder.padded([(1, size), (1, size, 2)])[0][1] for _, size in sizes)
    parts = [np.arange(rows * size, dtype=np.int32).reshape(rows, size) for rows, size in sizes]
    rows = tuple(part.shape[0] for part in parts)
    shape = (sum(rows), width)
    raw = padder.joined(0, [(part.tobytes(), part.shape) for part in parts], rows, shape)
    whole = np.frombuffer(raw, np.int32).reshape(shape).astype(np.float32)
    at = 0
    for part in parts:
        own = whole[at : at + len(part)]
        at += len(part)
        cuts = padder.cuts([part.shape, (*part.shape, 2)], [(len(part), width)] * 2)
        spec = TOKENS.outputs[0]
        found_shape, found = cut(spec, own.shape, own.tobytes(), cuts.get(0, ()))
        assert found_shape == part.shape
        assert found == part.astype(np.float32).tobytes()
        assert 1 not in cuts


def test_two_axes_without_a_batch():
    padder = padder_of(IMAGE)
    x = np.arange(1, 9, dtype=np.uint8).reshape(2, 4)
    padded = padder.padded([(2, 4)])
    assert padded == [(4, 6)]
    assert padder.size_bytes(padded, [x.tobytes()]) == 24
    raw = padder.joined(0, [(x.tobytes(), (2, 4))], (), (4, 6))
    whole = np.frombuffer(raw, np.uint8).reshape(4, 6)
    assert (whole[:2, :4] == x).all() and whole.sum() == x.sum() + 9 * 16
    cuts = padder.cuts([(2, 4)], padded)[0]
    assert cut(IMAGE.outputs[0], (4, 6), raw, cuts) == ((2, 4), x.tobytes())


def test_what_has_no_filler_is_not_copied():
    raw = bytes(range(12))
    assert padder_of(IMAGE).joined(0, [(raw, (4, 3))], (), (4, 3)) is raw
    assert cut(IMAGE.outputs[0], (4, 3), raw, ())[1] is raw
    # A model that gives another size at the axis knows what it does.
    cuts = padder_of(IMAGE).cuts([(2, 3)], [(4, 3)])[0]
    assert cut(IMAGE.outputs[0], (2, 2), b"abcd", cuts) == ((2, 2), b"abcd")


def test_sizes_that_differ_cannot_say_where_to_cut():
    with pytest.raises(InvalidArgument, match="'tokens', 'mask' have sizes \\[3, 2\\]") as caught:
        padder_of(TOKENS).padded([(1, 3), (1, 2, 2)])
    assert caught.value.reason == "SIZES_DIFFER"


def test_a_signature_without_padding_has_no_padder():
    spec = TensorSpec("x", "UINT8", (-1,))
    assert padder_of(Signature((spec,), (spec,), 0)) is None


def signature(datatype, *padding):
    spec = TensorSpec("x", datatype, (-1, -1, -1))
    return Signature((spec,), (spec,), 4, padding=padding)


@pytest.mark.parametrize(
    ("datatype", "paddings"),
    [
        ("BYTES", [(1, 0)]),
        ("UINT8", [(1, -1)]),
        ("INT8", [(1, 0.5)]),
        ("INT64", [(1, float("inf"))]),
        ("BOOL", [(1, 2)]),
        ("FP16", [(1, 1e6)]),
        ("FP32", [(1, 0), (1, 0)]),
        ("FP32", [(1, 0), (2, 1)]),
        ("FP32", [(0, 0)]),
    ],
)
def test_padding_that_cannot_be_is_refused_where_it_is_declared(datatype, paddings):
    with pytest.raises(InvalidArgument, match="padding") as caught:
        signature(datatype, *(Padding(axis, (8,), (("x", fill),)) for axis, fill in paddings))
    assert caught.value.reason == "BAD_SPEC"


@pytest.mark.parametrize(
    ("datatype", "fill", "element"),
    [
        ("BOOL", 1, 1),
        ("INT8", -128, -128),
        ("FP16", float("-inf"), float("-inf")),
        ("FP32", 0.1, 0.1),
        ("BF16", 1.0, 0x3F80),
        ("BF16", 1.00390625, 0x3F80),
        ("BF16", float("nan"), 0x7FC0),
        ("BF16", float("-inf"), 0xFF80),
    ],
)
def test_fillers(datatype, fill, element):
    assert fill_element(fill, datatype) == element
    assert np.full(1, element, NUMPY_TYPES[datatype]).size == 1
