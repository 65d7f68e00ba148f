"""Every datatype end to end: published, loaded, warmed up, probed and answered over gRPC."""

from __future__ import annotations

from dataclasses import replace

import grpc
import numpy as np
import pytest
import safetensors.torch
import torch

from chassis.errors import DataLoss, InvalidArgument
from chassis.infer import decoded_outputs, infer_request
from chassis.tensors import encode_raw
from headrace import Publisher
from headrace.probe import decode_probe, encode_probe
from inference_service.rehearsal import Rehearsal
from model_store.publication import publish
from model_store.records import ProgramKind
from tests.inference_service.datatypes import (
    ROWS,
    DrawingModel,
    EveryNumber,
    EveryNumberByPath,
    ShoutModel,
    extremes,
)
from tests.inference_service.served_replica import ServedReplica


def published(store, model):
    with Publisher(store, model) as publisher:
        version = publisher.publish(model.build())
    return store.manifest(model.name, version)


def numbers_request(model):
    inputs = []
    for spec in model.inputs:
        raw = encode_raw(extremes(spec.datatype), spec.datatype)
        inputs.append((spec.name, spec.datatype, (ROWS, 2), raw))
    return infer_request(model=model.name, inputs=inputs, outputs=())


def text_request(texts, **how):
    array = np.array(texts, dtype=np.object_)
    raw = encode_raw(array, "BYTES")
    return infer_request(
        model="affine", inputs=[("text", "BYTES", array.shape, raw)], outputs=(), **how
    )


async def refusal(replica, texts) -> tuple[grpc.StatusCode, str]:
    return await replica.refusal(text_request(texts))


@pytest.mark.parametrize(
    ("model", "kind"),
    [(EveryNumber(), ProgramKind.EXPORTED), (EveryNumberByPath(), ProgramKind.IMPORT_PATH)],
    ids=["exported", "by import path"],
)
@pytest.mark.parametrize("probed", [True, False], ids=["golden", "zeros"])
async def test_thirteen_datatypes_come_out_as_they_went_in(store, store_url, model, kind, probed):
    manifest = published(store, model)
    assert manifest.program.kind is kind
    if not probed:
        publish(store, replace(manifest, version=0, probe=None, commit_id=""))
    async with ServedReplica(store_url) as replica:
        await replica.wait_ready()
        sent = numbers_request(model)
        reply = await replica.oip.ModelInfer(sent)
        assert int(reply.model_version) == (1 if probed else 2)
        assert list(reply.raw_output_contents) == list(sent.raw_input_contents)
        assert [output.datatype for output in reply.outputs] == [s.datatype for s in model.outputs]


async def test_texts_in_and_out(store, store_url):
    assert published(store, ShoutModel()).program.kind is ProgramKind.IMPORT_PATH
    async with ServedReplica(store_url) as replica:
        await replica.wait_ready()
        texts = [[b"", b"one"], ["grün".encode(), b"\x00\xff\x00"]]
        reply = await replica.oip.ModelInfer(text_request(texts))
        found = decoded_outputs(reply)
        assert found["shouted"].tolist() == [
            [b"", b"ONE"],
            ["grün".encode().upper(), b"\x00\xff\x00"],
        ]
        assert found["size"].tolist() == [[0, 3], [5, 3]]
        typed = text_request(texts)
        del typed.raw_input_contents[:]
        typed.inputs[0].contents.bytes_contents.extend(t for row in texts for t in row)
        reply = await replica.oip.ModelInfer(typed)
        assert list(reply.outputs[0].contents.bytes_contents)[1] == b"ONE"


async def test_what_the_models_code_raises_is_the_inputs_fault_unless_memory_or_output(
    store, store_url
):
    published(store, ShoutModel())
    async with ServedReplica(store_url) as replica:
        await replica.wait_ready()
        for text in (b"missing", b"exit"):
            code, sentence = await refusal(replica, [[text, b""]])
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert sentence.startswith("version 1 of model 'affine' cannot compute these inputs")
            assert "secret" not in sentence
        code, sentence = await refusal(replica, [[b"empty", b""]])
        assert (code, sentence) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "a text is empty; expected words",
        )
        code, _ = await refusal(replica, [[b"huge", b""]])
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        code, sentence = await refusal(replica, [[b"short", b""]])
        assert code is grpc.StatusCode.INTERNAL
        assert "answered with other outputs than it promises" in sentence
        reply = await replica.oip.ModelInfer(text_request([[b"still", b"here"]]))
        assert decoded_outputs(reply)["shouted"].tolist() == [[b"STILL", b"HERE"]]


def test_the_probe_of_texts_is_raw_bytes_and_a_shape(store):
    manifest = published(store, ShoutModel())
    content = store.read_blob(manifest.probe.digest)
    golden = decode_probe(content, manifest.signature)
    assert golden.inputs[0].tolist() == [[b"sample", b"sample"]] * 4
    ((shouted, sizes),) = golden.answers
    assert shouted.tolist() == [[b"SAMPLE", b"SAMPLE"]] * 4
    assert sizes.tolist() == [[6, 6]] * 4
    tensors = safetensors.torch.load(content)
    assert tensors["input.text"].dtype is torch.uint8
    assert tensors["shape.input.text"].tolist() == [4, 2]


def test_a_replica_that_answers_other_texts_refuses_the_version(store, follower):
    manifest = published(store, ShoutModel())
    golden = decode_probe(store.read_blob(manifest.probe.digest), manifest.signature)
    wrong = golden.answers[0][0].copy()
    wrong[3, 1] = b"SAMPL3"
    content = encode_probe(manifest.signature, golden.inputs, [(wrong, golden.answers[0][1])])
    probe = replace(manifest.probe, digest=store.put_blob(content), size_bytes=len(content))
    publish(store, replace(manifest, version=0, probe=probe, commit_id=""))
    failure = follower.wait_failed(2).failures[0]
    assert (failure.reason, failure.message) == (
        "PROBE_FAILED",
        "output 'shouted' holds other bytes than the golden one",
    )


def test_a_model_that_never_repeats_itself_is_probed_without_answers(store, follower, monkeypatch):
    monkeypatch.setattr("headrace.probe.torch.random.fork_rng", _fresh_draws)
    manifest = published(store, DrawingModel())
    assert decode_probe(store.read_blob(manifest.probe.digest), manifest.signature).answers is None
    follower.wait_serving(1)


class _fresh_draws:  # noqa: N801 - stands for a function
    """Leaves torch's generator alone, so that each run draws anew."""

    def __init__(self, _devices) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_error: object) -> None:
        pass


@pytest.mark.parametrize("damage", ["input.text", "shape.input.text", "output.size"])
def test_a_probe_that_lacks_a_part_is_refused(store, damage):
    manifest = published(store, ShoutModel())
    tensors = safetensors.torch.load(store.read_blob(manifest.probe.digest))
    del tensors[damage]
    with pytest.raises(DataLoss, match="the probe lacks a tensor"):
        Rehearsal(manifest.signature, manifest.probe, safetensors.torch.save(tensors))


def test_a_probe_whose_bytes_do_not_add_up_is_refused(store):
    manifest = published(store, ShoutModel())
    tensors = safetensors.torch.load(store.read_blob(manifest.probe.digest))
    tensors["input.text"] = tensors["input.text"][:-1]
    with pytest.raises(DataLoss, match="the probe is damaged"):
        Rehearsal(manifest.signature, manifest.probe, safetensors.torch.save(tensors))


def test_texts_need_a_model_that_a_replica_can_import(store):
    class Local(ShoutModel):
        pass

    with pytest.raises(InvalidArgument, match="publish it from a headrace.Model defined"):
        published(store, Local())
    model = ShoutModel()
    with (
        Publisher(
            store, "affine", inputs=model.inputs, outputs=model.outputs, max_batch_size=8
        ) as publisher,
        pytest.raises(InvalidArgument, match="importable module"),
    ):
        publisher.publish(model.build())


def test_an_exported_program_has_no_texts(store, follower):
    manifest = published(store, ShoutModel())
    program = replace(manifest.program, kind=ProgramKind.EXPORTED)
    publish(store, replace(manifest, version=0, program=program, commit_id=""))
    assert follower.wait_failed(2).failures[0].reason == "UNSUPPORTED_DATATYPE"
