"""Datatypes, specs and raw bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chassis.errors import InvalidArgument
from chassis.tensors import (
    NUMPY_TYPES,
    Signature,
    TensorSpec,
    datatype_of,
    decode_raw,
    encode_raw,
    split_bytes_elements,
)

NUMERIC = [name for name in NUMPY_TYPES if name not in ("BYTES", "BF16")]


@pytest.mark.parametrize("datatype", NUMERIC)
@settings(deadline=None)
@given(data=st.data())
def test_numbers_round_trip(datatype, data):
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    array = data.draw(hnp.arrays(NUMPY_TYPES[datatype], shape))
    assert datatype_of(array) == datatype
    again = decode_raw(encode_raw(array, datatype), datatype, shape, name="x")
    assert again.tobytes() == array.tobytes()
    assert again.shape == array.shape


@settings(deadline=None)
@given(st.lists(st.binary(max_size=9), max_size=6))
def test_bytes_round_trip(elements):
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    raw = encode_raw(array, "BYTES")
    assert split_bytes_elements(raw, name="x") == elements
    assert decode_raw(raw, "BYTES", (len(elements),), name="x").tolist() == elements


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_elements_or_a_clear_refusal(raw):
    try:
        elements = split_bytes_elements(raw, name="x")
    except InvalidArgument as error:
        assert error.reason == "BAD_BYTE_COUNT"
    else:
        assert sum(4 + len(element) for element in elements) == len(raw)


@pytest.mark.parametrize(
    ("raw", "datatype", "shape", "sentence"),
    [
        (b"\0" * 7, "FP32", (2,), "holds 7 bytes; FP32 of shape \\[2\\] needs 8"),
        (b"", "FP32", (-1,), "negative size"),
        (b"", "UINT8", (2**31, 2**31), "more than"),
        (b"\x01\0\0\0a", "BYTES", (2,), "holds 1 BYTES elements; shape \\[2\\] needs 2"),
        (b"\xff\0\0\0a", "BYTES", (1,), "runs past the end"),
    ],
)
def test_wrong_bytes_are_refused_with_what_was_expected(raw, datatype, shape, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        decode_raw(raw, datatype, shape, name="x")


def test_strings_are_bytes_and_complex_numbers_are_nothing():
    assert datatype_of(np.array(["a"])) == "BYTES"
    with pytest.raises(InvalidArgument, match="complex64 has no OIP datatype"):
        datatype_of(np.zeros(1, np.complex64))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: TensorSpec("", "FP32", (1,)), "needs a name"),
        (lambda: TensorSpec("x", "FLOAT", (1,)), "datatype 'FLOAT' is unknown"),
        (lambda: TensorSpec("x", "FP32", (0,)), "neither positive nor -1"),
        (lambda: Signature((), (), 1), "at least one input"),
        (lambda: _signature((3,)), "must start with -1"),
        (lambda: _signature((-1,), names=("a", "a")), "input names must differ"),
        (lambda: _signature((-1,), rows=-1), "max_batch_size must be 0 or more"),
    ],
)
def test_wrong_declarations_are_refused(make, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        make()


def _signature(shape, *, names=("a",), rows=8):
    specs = tuple(TensorSpec(name, "FP32", shape) for name in names)
    return Signature(specs, specs, rows)
