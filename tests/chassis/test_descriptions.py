"""What ModelConfig and a manifest tell of a model is read back as it was."""

import pytest

from chassis.call import Call
from chassis.errors import InvalidArgument, PermissionDenied
from chassis.oip import config_reply, metadata_reply, signature_of
from chassis.tensors import Padding, Signature, TensorSpec
from model_store.record_bytes import decode_manifest, encode_manifest
from model_store.records import Manifest, Program, ProgramKind

TOKENS = TensorSpec("tokens", "INT64", (-1, -1))
LOGITS = TensorSpec("logits", "FP32", (-1, -1, 4))
BYTES = TensorSpec("text", "BYTES", (-1, 1))
PADDED = Padding(1, (8, 16), (("tokens", 3.0),), ("logits",))

SIGNATURES = {
    "plain": Signature((TOKENS,), (LOGITS,), 8),
    "whole": Signature((TensorSpec("x", "BF16", ()),), (TensorSpec("y", "UINT64", (3,)),), 0),
    "decoupled": Signature((BYTES,), (BYTES,), 1, decoupled=True),
    "states": Signature((BYTES,), (LOGITS,), 4, states=(TensorSpec("h", "FP16", (-1, 2, 3)),)),
    "whole states": Signature((BYTES,), (BYTES,), 0, states=(TensorSpec("h", "BOOL", (2,)),)),
    "padded": Signature((TOKENS,), (LOGITS,), 8, padding=(PADDED,)),
    "labels": Signature((TOKENS,), (LOGITS,), 8, labels=(("logits", ("a", "ü", "c")),)),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_gateway_reads_back_the_signature_a_replica_describes(name):
    signature = SIGNATURES[name]
    config = config_reply("m", signature).config
    assert signature_of(metadata_reply("m", ["1"], signature), config) == signature


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_manifest_keeps_the_signature(name):
    program = Program(ProgramKind.IMPORT_PATH, "b3:" + "0" * 64, 1)
    manifest = Manifest(
        model="m", program=program, signature=SIGNATURES[name], tensors=(), version=3
    )
    assert decode_manifest(encode_manifest(manifest), "m", 3) == manifest


def test_triton_sees_what_it_has_fields_for():
    assert config_reply("m", SIGNATURES["decoupled"]).config.model_transaction_policy.decoupled
    config = config_reply("m", SIGNATURES["states"]).config
    assert config.WhichOneof("scheduling_choice") == "sequence_batching"
    assert list(config.sequence_batching.state[0].dims) == [2, 3]
    assert (
        config_reply("m", SIGNATURES["plain"]).config.WhichOneof("scheduling_choice")
        == "dynamic_batching"
    )


@pytest.mark.parametrize("text", ["", "[", "[1]", '{"axis": 1}', '[{"axis": "x"}]'])
def test_unreadable_parameters_of_another_server_are_a_bad_spec(text):
    config = config_reply("m", SIGNATURES["padded"]).config
    config.parameters["headrace.padding"].string_value = text
    with pytest.raises(InvalidArgument) as caught:
        signature_of(metadata_reply("m", [], SIGNATURES["padded"]), config)
    assert caught.value.reason == "BAD_SPEC"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"padding": (Padding(2, (8,), (("tokens", 0),)),)}, "no such dimension"),
        ({"padding": (Padding(0, (8,), (("tokens", 0),)),)}, "no such dimension"),
        ({"padding": (Padding(1, (8,), (("nobody", 0),)),)}, "'nobody'"),
        ({"padding": (Padding(1, (8,), (("text", 0),)),)}, "'text'"),
        ({"padding": (Padding(1, (8,), (("tokens", 0),), ("scores",)),)}, "'scores'"),
        ({"labels": (("nobody", ()),)}, "'nobody'"),
        ({"states": (TensorSpec("h", "FP32", (-1, -1)),)}, "fixed sizes"),
        ({"states": (TensorSpec("tokens", "FP32", (-1, 1)),)}, "the name of an input"),
        ({"states": (TensorSpec("h", "FP32", (3,)),)}, "must start with -1"),
        ({"states": (TensorSpec("h", "FP32", (-1, 3)),), "decoupled": True}, "no states"),
    ],
)
def test_a_signature_refuses_what_cannot_be(wrong, sentence):
    outputs = (LOGITS, TensorSpec("scores", "FP32", (-1, 2)))
    with pytest.raises(InvalidArgument, match=sentence):
        Signature((TOKENS, TensorSpec("text", "BYTES", (-1, -1))), outputs, 8, **wrong)


@pytest.mark.parametrize("buckets", [(), (0, 8), (8, 8), (16, 8)])
def test_buckets_ascend(buckets):
    with pytest.raises(InvalidArgument, match="ascending"):
        Padding(1, buckets, (("tokens", 0),))


def test_control_is_refused_where_it_is_not_given():
    Call("ops", control=True).require_control("loading a model")
    with pytest.raises(PermissionDenied, match="loading a model") as caught:
        Call().require_control("loading a model")
    assert caught.value.reason == "CONTROL_NOT_ALLOWED"
