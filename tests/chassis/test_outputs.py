"""Which outputs a request wants, and outputs as classes in Triton's words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chassis.classification import classified
from chassis.errors import InvalidArgument
from chassis.infer import infer_reply
from chassis.outputs import output_forms, wanted_outputs
from chassis.shared_memory import NO_REGIONS
from chassis.tensors import NUMPY_TYPES, Signature, TensorSpec, encode_raw, split_bytes_elements
from protos.inference import grpc_service_pb2 as oip

X = TensorSpec("x", "FP32", (-1, 1))
SIGNATURE = Signature(
    (X,),
    tuple(TensorSpec(kind.lower(), kind, (-1, 4)) for kind in ("FP32", "BYTES", "BOOL", "INT64")),
    8,
    labels=(("fp32", ("cat", "", "dog")),),
)


def request(*names, **classes):
    made = oip.ModelInferRequest()
    for name in names:
        output = made.outputs.add(name=name)
        if name in classes:
            output.parameters["classification"].int64_param = classes[name]
    return made


def strings(raw):
    return [element.decode() for element in split_bytes_elements(raw, name="y")]


def test_outputs_are_those_asked_for_in_order_and_none_twice():
    assert wanted_outputs(request(), SIGNATURE) == (0, 1, 2, 3)
    assert wanted_outputs(request("int64", "fp32"), SIGNATURE) == (3, 0)
    with pytest.raises(InvalidArgument, match="'fp32' is asked for twice") as caught:
        wanted_outputs(request("fp32", "bool", "fp32"), SIGNATURE)
    assert (caught.value.reason, caught.value.field) == ("DUPLICATE_OUTPUT", "outputs[2].name")
    with pytest.raises(InvalidArgument, match="expected any of fp32, bytes") as caught:
        wanted_outputs(request("fp32", "nope"), SIGNATURE)
    assert (caught.value.reason, caught.value.field) == ("UNKNOWN_OUTPUT", "outputs[1].name")


def test_outputs_without_parameters_are_sent_as_they_are():
    assert output_forms(request("fp32", "bool"), SIGNATURE, NO_REGIONS) == ()
    unknown = request("fp32")
    unknown.outputs[0].parameters["binary_data"].bool_param = True
    assert output_forms(unknown, SIGNATURE, NO_REGIONS) == ()


@pytest.mark.parametrize("typed", [False, True])
def test_one_output_as_classes_and_the_other_as_it_is(typed):
    asked = request("int64", "fp32", fp32=2)
    values = np.array([[0.5, 2, -1, 1e6], [0, 0, 0, -0.25]], np.float32)
    counts = np.arange(8).reshape(2, 4)
    reply = infer_reply(
        model="m",
        version="1",
        request_id="",
        outputs=[
            (SIGNATURE.outputs[3], (2, 4), counts.tobytes()),
            (SIGNATURE.outputs[0], (2, 4), values.tobytes()),
        ],
        typed=typed,
        forms=output_forms(asked, SIGNATURE, NO_REGIONS),
    )
    plain, classes = reply.outputs
    assert (plain.datatype, list(plain.shape)) == ("INT64", [2, 4])
    assert (classes.datatype, list(classes.shape)) == ("BYTES", [2, 2])
    expected = ["1000000.000000:3", "2.000000:1", "0.000000:0:cat", "0.000000:1"]
    if typed:
        assert not reply.raw_output_contents
        assert list(plain.contents.int64_contents) == list(range(8))
        assert [value.decode() for value in classes.contents.bytes_contents] == expected
    else:
        assert reply.raw_output_contents[0] == counts.tobytes()
        assert strings(reply.raw_output_contents[1]) == expected


@pytest.mark.parametrize(
    ("datatype", "values", "expected"),
    [
        ("UINT8", [3, 255, 0], ["255:1", "3:0", "0:2"]),
        ("INT64", [-(2**63), 2**63 - 1, 0], [f"{2**63 - 1}:1", "0:2", f"{-(2**63)}:0"]),
        ("UINT64", [2**64 - 1, 0, 2**64 - 2], [f"{2**64 - 1}:0", f"{2**64 - 2}:2", "0:1"]),
        ("FP16", [0.1, 2, -3], ["2.000000:1", "0.099976:0", "-3.000000:2"]),
        ("FP64", [1 / 3, np.nan, np.inf], ["inf:2", "0.333333:0", "nan:1"]),
        ("FP32", [1, 1, 1], ["1.000000:0", "1.000000:1", "1.000000:2"]),
    ],
)
def test_values_are_written_as_in_c(datatype, values, expected):
    raw = encode_raw(np.array(values, NUMPY_TYPES[datatype]), datatype)
    shape, found = classified(raw, datatype, (3,), classes=9, batches=False)
    assert (shape, strings(found)) == ((3,), expected)


def test_bf16_is_read_by_its_bits():
    raw = np.array([0x3FC0, 0xC000, 0x4120], np.uint16).tobytes()
    shape, found = classified(raw, "BF16", (1, 3), classes=2, batches=True, labels=("a", "b"))
    assert (shape, strings(found)) == ((1, 2), ["10.000000:2", "1.500000:0:a"])


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
        elements=st.sampled_from([-1.0, 0.0, 0.5, 0.5, 3.0, np.inf]),
    ),
    st.integers(1, 50),
)
def test_the_highest_come_first_and_equal_ones_by_index(values, count):
    shape, raw = classified(values.tobytes(), "FP32", values.shape, classes=count, batches=True)
    rows, classes = values.shape
    assert shape == (rows, min(count, classes))
    expected = [
        f"{row[at]:f}:{at}"
        for row in values
        for at in sorted(range(classes), key=lambda at, row=row: (-row[at], at))[:count]
    ]
    assert strings(raw) == expected


def test_a_row_of_many_dimensions_is_one_list():
    values = np.arange(12, dtype=np.int32)
    shape, raw = classified(values.tobytes(), "INT32", (2, 3, 2), classes=2, batches=True)
    assert (shape, strings(raw)) == ((2, 2), ["5:5", "4:4", "11:5", "10:4"])
    assert classified(b"\x07", "UINT8", (), classes=3, batches=False)[0] == (1,)


@pytest.mark.parametrize(
    ("name", "classes", "sentence"),
    [
        ("bytes", 1, "is BYTES, which has no highest values"),
        ("bool", 1, "is BOOL"),
        ("fp32", 0, "must be an integer of 1 or more"),
        ("fp32", -1, "must be an integer of 1 or more"),
        ("fp32", "3", "must be an integer of 1 or more"),
    ],
)
def test_what_cannot_be_classes_is_refused_with_the_reason(name, classes, sentence):
    asked = request("int64", name)
    choice = asked.outputs[1].parameters["classification"]
    setattr(choice, "string_param" if isinstance(classes, str) else "int64_param", classes)
    with pytest.raises(InvalidArgument, match=sentence) as caught:
        output_forms(asked, SIGNATURE, NO_REGIONS)
    assert caught.value.reason == "BAD_CLASSIFICATION"
    assert caught.value.field == "outputs[1].parameters[classification]"
