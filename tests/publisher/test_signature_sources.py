"""Every way to say what a module takes and gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import headrace
from chassis.errors import InvalidArgument
from headrace import Publisher, Signature, TensorSpec
from model_store.records import ProgramKind
from tests.publisher.modules import (
    SCORES,
    SPEC,
    Branching,
    Featured,
    Halves,
    Plain,
    TwoWay,
    Unexportable,
)
from tests.publisher.stores import newest


def signature_of(store, module, **given) -> Signature:
    with Publisher(store, "m", **given) as publisher:
        publisher.publish(module)
    return newest(store, "m").signature


def test_a_model_brings_its_own(store):
    assert Publisher(store, Plain()).publish(Featured()) == 1
    assert newest(store, "plain").signature == Plain().signature


def test_specs_are_taken_as_they_are(store):
    found = signature_of(store, nn.Linear(8, 8), inputs=[SPEC], outputs=[SCORES], max_batch_size=5)
    assert found == Signature((SPEC,), (SCORES,), 5)


def test_outputs_left_out_are_found_by_running(store):
    found = signature_of(store, nn.Linear(8, 3), inputs=[SPEC])
    assert found.outputs == (TensorSpec("output", "FP32", (-1, 3)),)


def test_an_example_tensor_takes_the_argument_s_name(store):
    found = signature_of(store, Featured(), example_inputs=torch.randn(16, 8))
    assert found == Signature((SPEC,), (TensorSpec("output", "FP32", (-1, 8)),), 64)


def test_a_lone_row_is_enough_of_an_example(store):
    signature_of(store, nn.Linear(8, 3), example_inputs=torch.randn(1, 8))
    assert newest(store, "m").program.kind is ProgramKind.EXPORTED


@pytest.mark.parametrize("named", [False, True])
def test_several_examples_and_outputs_by_name(store, named):
    left, right = torch.randn(3, 8), torch.randn(3, 8)
    # The dict is in the other order than forward's arguments.
    example = {"right": right, "left": left} if named else (left, right)
    found = signature_of(store, TwoWay(), example_inputs=example)
    assert [spec.name for spec in found.inputs] == ["left", "right"]
    assert [spec.name for spec in found.outputs] == ["sum", "difference"]


def test_outputs_in_a_sequence_are_numbered(store):
    found = signature_of(store, Halves(), example_inputs=torch.randn(5, 8))
    assert [spec.name for spec in found.outputs] == ["output_0", "output_1"]


def test_without_a_batch_dimension_shapes_are_exact(store):
    found = signature_of(store, nn.Linear(8, 3), example_inputs=torch.randn(8), max_batch_size=0)
    assert (found.inputs[0].shape, found.outputs[0].shape) == ((8,), (3,))


def test_a_name_alone_takes_the_newest_version_s_program_and_golden_inputs(store):
    torch.manual_seed(0)
    Publisher(store, "m", example_inputs=torch.randn(16, 8)).publish(Featured())
    first = newest(store, "m")
    with headrace.Publisher(store, model="m") as publisher:
        assert publisher.publish(Featured(), step=7) == 2
    second = newest(store, "m")
    assert (second.program, second.signature) == (first.program, first.signature)
    assert second.probe is not None and second.probe.digest != first.probe.digest


def test_a_name_alone_with_no_version_says_what_to_pass(store):
    with pytest.raises(InvalidArgument, match=r"no stored version.*pass example_inputs=") as error:
        Publisher(store, "m").publish(Featured())
    assert error.value.reason == "NO_SIGNATURE"


def test_a_name_alone_with_other_tensors_names_the_difference(store):
    Publisher(store, "m", example_inputs=torch.randn(16, 8)).publish(nn.Linear(8, 3))
    with pytest.raises(InvalidArgument, match=r"has 'bias' as FP32 \[3\]"):
        Publisher(store, "m").publish(nn.Linear(8, 4))
    with pytest.raises(InvalidArgument, match="lacks '1.weight'|has 'bias'"):
        Publisher(store, "m").publish(nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 3)))
    assert store.versions("m") == [1]


def test_a_name_alone_with_another_architecture_of_the_same_tensors_is_refused(store):
    Publisher(store, "m", example_inputs=torch.randn(16, 8)).publish(
        nn.Sequential(nn.Linear(8, 3), nn.ReLU())
    )
    with pytest.raises(InvalidArgument, match="differs from what the program of version 1"):
        Publisher(store, "m").publish(nn.Sequential(nn.Linear(8, 3), nn.Sigmoid()))


def test_a_model_that_does_not_export_travels_by_import_path(store):
    Publisher(store, Unexportable()).publish(Branching())
    program = newest(store, "branching").program
    assert program.kind is ProgramKind.IMPORT_PATH
    assert store.read_blob(program.digest) == b"tests.publisher.modules:Unexportable"


def test_a_model_that_neither_exports_nor_can_be_imported_is_refused(store):
    class Local(Unexportable):
        pass

    for model, given in ((Local(), {}), ("m", {"example_inputs": torch.randn(2, 8)})):
        with pytest.raises(InvalidArgument) as error:
            Publisher(store, model, **given).publish(Branching())
        assert error.value.reason == "NOT_EXPORTABLE"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"inputs": [TensorSpec("x", "FP32", (8,))]}, "BAD_SPEC"),
        ({"channel": "no channel"}, "BAD_NAME"),
    ],
)
def test_bad_arguments_are_refused_at_once(store, given, reason):
    with pytest.raises(InvalidArgument) as error:
        Publisher(store, "m", **given)
    assert error.value.reason == reason


def test_a_model_with_specs_beside_it_is_refused(store):
    with pytest.raises(InvalidArgument, match="brings its signature"):
        Publisher(store, Plain(), max_batch_size=3)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"example_inputs": torch.tensor(1.0)}, "pass max_batch_size=0"),
        ({"example_inputs": [1, 2]}, "expected a tensor of an OIP datatype"),
        ({"inputs": [SPEC], "example_inputs": {"y": torch.ones(2, 8)}}, r"expected \['x'\]"),
        ({"inputs": [SPEC], "example_inputs": torch.ones(2, 9)}, r"expected FP32 \[-1, 8\]"),
        ({"inputs": [TensorSpec("x", "BYTES", (-1, 8))]}, "torch has no BYTES"),
        ({"inputs": [SPEC], "outputs": [TensorSpec("s", "FP32", (-1, 9))]}, r"FP32 \[4, 9\]"),
        ({"inputs": [SPEC], "outputs": [TensorSpec("s", "FP64", (-1, 8))]}, "expected FP64"),
        ({"inputs": [SPEC], "outputs": [SCORES, SPEC]}, "returned 1 outputs"),
    ],
)
def test_what_does_not_fit_the_module_is_refused_before_anything_is_written(store, given, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        Publisher(store, "m", **given).publish(nn.Linear(8, 8))
    assert (store.models(), store.epoch("m")) == ([], 0)


def test_a_stored_version_whose_record_is_damaged_is_passed_over(tmp_path):
    module = Featured()
    url = f"file://{tmp_path}/store"
    with Publisher(url, Plain()) as first:
        for _ in range(2):
            first.publish(module)
    versions = sorted((tmp_path / "store" / "models" / "plain" / "versions").iterdir())
    versions[-1].write_bytes(versions[-1].read_bytes()[:40])
    with Publisher(url, "plain") as second:
        assert second.publish(module) == 3
        assert newest(second.store, "plain").signature == Plain().signature
