"""Requests' tensors, however they come; their order; every refusal's field."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chassis.errors import InvalidArgument
from chassis.infer import decoded_outputs, infer_reply, infer_request
from chassis.inputs import checked_inputs
from chassis.limits import Limits
from chassis.tensors import NUMPY_TYPES, Signature, TensorSpec, decode_raw, encode_raw
from chassis.typed_contents import TYPED_FIELDS

ELEMENTS = {"BYTES": st.binary(max_size=9)}


def arrays(datatype, shape):
    dtype = NUMPY_TYPES[datatype]
    if datatype != "BYTES":
        return hnp.arrays(dtype, shape)
    count = math.prod(shape)
    return st.lists(ELEMENTS["BYTES"], min_size=count, max_size=count).map(
        lambda items: _objects(items).reshape(shape)
    )


def _objects(items):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def typed(request):
    """The same request with typed contents."""
    for tensor, raw in zip(request.inputs, list(request.raw_input_contents), strict=True):
        values = decode_raw(raw, tensor.datatype, tuple(tensor.shape), name=tensor.name)
        getattr(tensor.contents, TYPED_FIELDS[tensor.datatype]).extend(values.reshape(-1).tolist())
    del request.raw_input_contents[:]
    return request


@pytest.mark.parametrize("datatype", NUMPY_TYPES)
@settings(deadline=None)
@given(data=st.data())
def test_every_datatype_there_and_back(datatype, data):
    """Raw, and typed where it can be: the bytes are the same, and so is what a reply carries."""
    rank = data.draw(st.integers(0, 3))
    shape = data.draw(hnp.array_shapes(min_dims=rank, max_dims=rank, min_side=0, max_side=3))
    raw = encode_raw(data.draw(arrays(datatype, shape)), datatype)
    spec = TensorSpec("x", datatype, (-1,) * len(shape))
    signature = Signature((spec,), (spec,), 0)
    request = infer_request(model="m", inputs=[("x", datatype, shape, raw)])
    found = checked_inputs(request, signature)
    assert (found.raw, found.shapes, found.rows, found.typed) == ([raw], [shape], 1, False)
    if datatype in TYPED_FIELDS:
        again = checked_inputs(typed(request), signature)
        assert (again.raw, again.shapes) == (found.raw, found.shapes)
        # An empty tensor has nothing that could be typed.
        assert again.typed or not math.prod(shape)
    for wants_typed in (False, True):
        reply = infer_reply(
            model="m", version="1", request_id="", outputs=[(spec, shape, raw)], typed=wants_typed
        )
        assert len(reply.raw_output_contents) == (
            0 if wants_typed and datatype in TYPED_FIELDS else 1
        )
        assert encode_raw(decoded_outputs(reply)["x"], datatype) == raw


THREE = Signature(
    tuple(TensorSpec(name, "INT32", (-1, 1)) for name in "abc"),
    (TensorSpec("y", "INT32", (-1, 1)),),
    4,
)


@settings(deadline=None)
@given(st.permutations("abc"))
def test_inputs_may_come_in_any_order(order):
    values = {name: np.array([[at]], np.int32).tobytes() for at, name in enumerate("abc")}
    request = infer_request(
        model="m", inputs=[(name, "INT32", (1, 1), values[name]) for name in order]
    )
    assert checked_inputs(request, THREE).raw == list(values.values())


@pytest.mark.parametrize("typed_outputs", [("FP32",), ("FP32", "BYTES")])
@pytest.mark.parametrize("half", ["FP16", "BF16"])
def test_a_reply_is_raw_or_typed_as_a_whole(typed_outputs, half):
    """Triton's client takes the n-th raw entry for the n-th output."""
    outputs = [(TensorSpec(name, name, (1,)), (1,), raw_one(name)) for name in typed_outputs]
    half_output = (TensorSpec("h", half, (1,)), (1,), b"\0\0")
    kinds = {"model": "m", "version": "1", "request_id": "", "typed": True}
    assert not infer_reply(outputs=outputs, **kinds).raw_output_contents
    mixed = infer_reply(outputs=[*outputs, half_output], **kinds)
    assert len(mixed.raw_output_contents) == len(outputs) + 1
    assert not any(tensor.HasField("contents") for tensor in mixed.outputs)


def raw_one(datatype):
    return b"\x01\0\0\0a" if datatype == "BYTES" else b"\0\0\0\0"


def int8(values, field="int_contents", shape=(1, 2)):
    request = infer_request(model="m", inputs=[("x", "INT8", shape, b"")])
    del request.raw_input_contents[:]
    getattr(request.inputs[0].contents, field).extend(values)
    return request


INT8 = Signature((TensorSpec("x", "INT8", (-1, -1)),), (TensorSpec("y", "INT8", (-1, -1)),), 4)


def _nothing(message):
    message.inputs[0].ClearField("contents")


def _two_fields(message):
    message.inputs[0].contents.fp32_contents.append(1.0)


@pytest.mark.parametrize(
    ("change", "reason", "field", "sentence"),
    [
        (_two_fields, "BAD_CONTENTS", "inputs[0].contents.fp32_contents", "int_contents"),
        (_nothing, "BAD_CONTENTS", "inputs[0]", "has no contents"),
        (
            lambda m: m.inputs[0].contents.int_contents.append(1),
            "BAD_BYTE_COUNT",
            "inputs[0].contents.int_contents",
            "holds 3 values in int_contents; shape [1, 2] needs 2",
        ),
        (
            lambda m: m.inputs[0].contents.int_contents.__setitem__(1, -129),
            "BAD_CONTENTS",
            "inputs[0].contents.int_contents",
            "outside the range of INT8",
        ),
        (
            lambda m: m.raw_input_contents.append(b"ab"),
            "BAD_CONTENTS",
            "inputs[0].contents",
            "expected one of them",
        ),
        (
            lambda m: m.raw_input_contents.extend([b"ab", b""]),
            "BAD_CONTENTS",
            "raw_input_contents",
            "1 inputs but 2 raw_input_contents; expected 1",
        ),
        (lambda m: setattr(m.inputs[0], "name", "\0\u202e"), "UNKNOWN_INPUT", "inputs[0].name", ""),
        (lambda m: m.inputs.add(name="x"), "DUPLICATE_INPUT", "inputs[1].name", "some twice"),
        (lambda m: m.inputs.pop(), "MISSING_INPUT", "inputs", "'x' is missing"),
        (lambda m: setattr(m.inputs[0], "datatype", "X"), "BAD_DATATYPE", "inputs[0].datatype", ""),
        (lambda m: m.inputs[0].shape.pop(), "BAD_SHAPE", "inputs[0].shape", "[-1, -1]"),
        (lambda m: m.inputs[0].shape.__setitem__(0, 0), "BAD_SHAPE", "inputs[0].shape", ""),
        (lambda m: m.inputs[0].shape.__setitem__(1, -1), "BAD_SHAPE", "inputs[0].shape", ""),
        (
            lambda m: m.inputs[0].shape.__setitem__(0, 5),
            "BAD_BYTE_COUNT",
            "inputs[0].contents.int_contents",
            "needs 10",
        ),
    ],
)
def test_a_refusal_names_the_field(change, reason, field, sentence):
    message = int8([1, -2])
    assert checked_inputs(message, INT8).raw == [b"\x01\xfe"]
    change(message)
    with pytest.raises(InvalidArgument) as caught:
        checked_inputs(message, INT8)
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert sentence in caught.value.message
    assert caught.value.message.isprintable()


def test_too_many_rows_and_rows_that_differ_name_the_shape():
    def rows(*counts):
        return infer_request(
            model="m",
            inputs=[(n, "INT32", (c, 1), bytes(4 * c)) for n, c in zip("abc", counts, strict=True)],
        )

    for counts, reason, field in (
        ((5, 5, 5), "TOO_MANY_ROWS", "inputs[0].shape"),
        ((2, 2, 3), "ROWS_DIFFER", "inputs[2].shape"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            checked_inputs(rows(*counts), THREE)
        assert (caught.value.reason, caught.value.field) == (reason, field)


def test_empty_dimensions_beside_the_batch_are_tensors_too():
    request = infer_request(model="m", inputs=[("x", "INT8", (2, 0), b"")])
    found = checked_inputs(request, INT8)
    assert (found.raw, found.shapes, found.rows) == ([b""], [(2, 0)], 2)


def test_typed_contents_may_not_grow_beyond_the_limit():
    """A varint of one byte is eight bytes raw."""
    spec = TensorSpec("x", "INT64", (-1,))
    request = infer_request(model="m", inputs=[("x", "INT64", (4,), b"")])
    del request.raw_input_contents[:]
    request.inputs[0].contents.int64_contents.extend([1] * 4)
    signature = Signature((spec,), (spec,), 0)
    assert len(checked_inputs(request, signature, limits=Limits(tensor_bytes=32)).raw[0]) == 32
    with pytest.raises(InvalidArgument, match="take 32 bytes") as caught:
        checked_inputs(request, signature, limits=Limits(tensor_bytes=31))
    assert caught.value.reason == "TOO_MANY_BYTES"


def test_bytes_elements_are_counted():
    spec = TensorSpec("x", "BYTES", (-1,))
    request = infer_request(model="m", inputs=[("x", "BYTES", (2,), b"\0\0\0\0" * 3)])
    with pytest.raises(InvalidArgument, match="holds 3 BYTES elements") as caught:
        checked_inputs(request, Signature((spec,), (spec,), 4))
    assert caught.value.field == "raw_input_contents[0]"
