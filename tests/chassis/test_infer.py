"""The door for inference messages."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.errors import InvalidArgument
from chassis.infer import (
    decoded_outputs,
    encoded_inputs,
    infer_reply,
    infer_request,
    split_rows,
)
from chassis.inputs import checked_inputs
from chassis.outputs import wanted_outputs
from chassis.tensors import NUMPY_TYPES, Signature, TensorSpec, encode_raw
from chassis.typed_contents import TYPED_FIELDS

SIGNATURE = Signature(
    (TensorSpec("image", "FP32", (-1, 2)), TensorSpec("tag", "BYTES", (-1, 1))),
    (TensorSpec("logits", "FP32", (-1, 3)), TensorSpec("label", "INT64", (-1,))),
    4,
)


def request(**changes):
    arrays = {"image": np.ones((2, 2), np.float32), "tag": np.array([[b"a"], [b"b"]], object)}
    return infer_request(model="m", inputs=encoded_inputs(arrays | changes))


def test_a_raw_request_is_read_in_the_signatures_order():
    arrays = {"tag": np.array([[b"a"]], object), "image": np.ones((1, 2), np.float32)}
    found = checked_inputs(infer_request(model="m", inputs=encoded_inputs(arrays)), SIGNATURE)
    assert found.raw == [np.ones(2, np.float32).tobytes(), b"\x01\0\0\0a"]
    assert found.shapes == [(1, 2), (1, 1)]
    assert (found.rows, found.typed) == (1, False)


@pytest.mark.parametrize("datatype", TYPED_FIELDS)
def test_typed_contents_give_the_same_bytes_as_raw(datatype):
    spec = TensorSpec("x", datatype, (-1, 2))
    values = [b"a", b"bc"] if datatype == "BYTES" else [0, 1]
    array = np.array([values], NUMPY_TYPES[datatype])
    typed = infer_request(model="m", inputs=[("x", datatype, (1, 2), b"")])
    del typed.raw_input_contents[:]
    getattr(typed.inputs[0].contents, TYPED_FIELDS[datatype]).extend(array.reshape(-1).tolist())
    found = checked_inputs(typed, Signature((spec,), (spec,), 4))
    assert found.typed
    assert found.raw == [encode_raw(array, datatype)]


def _missing(message):
    del message.inputs[0], message.raw_input_contents[0]


def _twice(message):
    message.inputs[1].CopyFrom(message.inputs[0])
    message.raw_input_contents[1] = message.raw_input_contents[0]


def _third(message):
    message.inputs.add().CopyFrom(message.inputs[0])
    message.raw_input_contents.append(message.raw_input_contents[0])


def _both(message):
    message.inputs[0].contents.fp32_contents.append(1.0)


def _short(message):
    message.raw_input_contents[0] = message.raw_input_contents[0][:-1]


def _one_raw(message):
    del message.raw_input_contents[1]


@pytest.mark.parametrize(
    ("change", "reason", "sentence"),
    [
        (_missing, "MISSING_INPUT", "'image' is missing; expected the inputs image, tag"),
        (_twice, "DUPLICATE_INPUT", "2 inputs, some twice"),
        (_third, "DUPLICATE_INPUT", "3 inputs, some twice"),
        (_both, "BAD_CONTENTS", "contents besides raw_input_contents"),
        (_short, "BAD_BYTE_COUNT", "holds 15 bytes; FP32 of shape \\[2, 2\\] needs 16"),
        (_one_raw, "BAD_CONTENTS", "2 inputs but 1 raw_input_contents"),
        (lambda m: setattr(m.inputs[0], "name", "x"), "UNKNOWN_INPUT", "'x' is unknown"),
        (lambda m: setattr(m.inputs[0], "datatype", "FP64"), "BAD_DATATYPE", "expected FP32"),
        (lambda m: m.inputs[0].shape.append(1), "BAD_SHAPE", "expected \\[-1, 2\\]"),
        (lambda m: m.inputs[0].shape.__setitem__(0, -2), "BAD_SHAPE", "has shape \\[-2, 2\\]"),
        (lambda m: m.inputs[0].shape.__setitem__(0, 0), "BAD_SHAPE", "has shape \\[0, 2\\]"),
    ],
)
def test_bad_input_names_the_fault_and_what_was_expected(change, reason, sentence):
    message = request()
    change(message)
    with pytest.raises(InvalidArgument, match=sentence) as caught:
        checked_inputs(message, SIGNATURE)
    assert caught.value.reason == reason


def test_rows_must_agree_and_fit():
    with pytest.raises(InvalidArgument, match="'tag' has 2 rows; the inputs before it have 1"):
        checked_inputs(request(image=np.ones((1, 2), np.float32)), SIGNATURE)
    many = request(image=np.ones((5, 2), np.float32), tag=np.array([[b"a"]] * 5, object))
    with pytest.raises(InvalidArgument, match="has 5 rows; the model takes at most 4"):
        checked_inputs(many, SIGNATURE)


def test_a_value_out_of_range_is_refused():
    spec = TensorSpec("x", "INT8", (-1,))
    message = infer_request(model="m", inputs=[("x", "INT8", (1,), b"")])
    del message.raw_input_contents[:]
    message.inputs[0].contents.int_contents.append(300)
    with pytest.raises(InvalidArgument, match="outside the range of INT8"):
        checked_inputs(message, Signature((spec,), (spec,), 1))


def test_outputs_are_all_unless_some_are_asked_for():
    message = request()
    assert wanted_outputs(message, SIGNATURE) == (0, 1)
    message.outputs.add(name="label")
    assert wanted_outputs(message, SIGNATURE) == (1,)
    message.outputs.add(name="nope")
    with pytest.raises(InvalidArgument, match="'nope' is unknown; expected any of logits, label"):
        wanted_outputs(message, SIGNATURE)


@pytest.mark.parametrize("typed", [False, True])
def test_replies_round_trip(typed):
    logits, label = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, 2])
    reply = infer_reply(
        model="m",
        version="7",
        request_id="a",
        outputs=[
            (SIGNATURE.outputs[0], (2, 3), logits.tobytes()),
            (SIGNATURE.outputs[1], (2,), label.tobytes()),
        ],
        typed=typed,
    )
    assert bool(reply.raw_output_contents) is not typed
    again = decoded_outputs(reply)
    assert np.array_equal(again["logits"], logits)
    assert np.array_equal(again["label"], label)


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.sampled_from(["FP32", "BYTES"]))
def test_split_rows_gives_each_request_its_own(rows, datatype):
    total = sum(rows)
    values = [f"{index}" for index in range(total)] if datatype == "BYTES" else range(total)
    array = np.array([[value, value] for value in values], NUMPY_TYPES[datatype])
    parts = split_rows(encode_raw(array, datatype), datatype, rows, name="y")
    expected = np.split(array, np.cumsum(rows)[:-1])
    assert parts == [encode_raw(part, datatype) for part in expected]


def test_split_rows_refuses_bytes_that_do_not_divide():
    with pytest.raises(InvalidArgument, match="7 bytes for 2 rows"):
        split_rows(b"\0" * 7, "UINT8", [1, 1], name="y")
