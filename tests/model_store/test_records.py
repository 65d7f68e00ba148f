"""Records pass through their bytes unchanged; digests name bytes."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from blake3 import blake3
from hypothesis import given

from chassis.errors import DataLoss, InvalidArgument
from chassis.tensors import ELEMENT_BYTES, Signature, TensorSpec
from model_store.digests import checked_digest, digest, verified
from model_store.record_bytes import (
    decode_channel,
    decode_manifest,
    encode_channel,
    encode_manifest,
    manifest_digest,
)
from model_store.records import (
    Channel,
    ChannelMove,
    DeltaStep,
    Manifest,
    Probe,
    Program,
    ProgramKind,
    TensorEntry,
)
from protos.headrace.v1 import manifest_pb2
from tests.model_store.samples import SIGNATURE, unstored

texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)
counts = st.integers(0, 2**63 - 1)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
blobs = st.binary(max_size=8).map(digest)
datatypes = st.sampled_from(sorted(ELEMENT_BYTES))
specs = st.builds(
    TensorSpec, texts, datatypes, st.lists(st.sampled_from([-1, 1, 7]), max_size=3).map(tuple)
)


def sides() -> st.SearchStrategy[tuple[TensorSpec, ...]]:
    return st.lists(specs, min_size=1, max_size=3, unique_by=lambda spec: spec.name).map(tuple)


entries = st.builds(
    TensorEntry,
    texts,
    datatypes,
    st.lists(counts, max_size=4).map(tuple),
    blobs,
    counts,
    st.just("") | blobs,
)
steps = st.builds(DeltaStep, counts, blobs, counts)
manifests = st.builds(
    Manifest,
    model=names,
    program=st.builds(Program, st.sampled_from(ProgramKind), blobs, counts),
    signature=st.builds(Signature, sides(), sides(), st.just(0)),
    tensors=st.lists(entries, max_size=5).map(tuple),
    version=counts,
    epoch=counts,
    parent=counts,
    step=counts,
    metrics=st.dictionaries(texts, st.floats(allow_nan=False), max_size=4),
    create_time_ms=counts,
    probe=st.none() | st.builds(Probe, blobs, counts, st.floats(0, 1), st.floats(0, 1)),
    producer=texts,
    commit_id=texts,
    deltas=st.lists(steps, max_size=3).map(tuple),
)
moves = st.builds(ChannelMove, counts, counts, counts, texts, counts)
channels = st.builds(
    Channel, names, names, counts, counts, counts, st.booleans(), st.lists(moves, max_size=5)
)


@given(manifests)
def test_a_manifest_passes_through_its_bytes(manifest: Manifest) -> None:
    record = encode_manifest(manifest)
    assert decode_manifest(record, manifest.model, manifest.version) == manifest
    assert encode_manifest(decode_manifest(record, manifest.model)) == record


@given(channels)
def test_a_channel_passes_through_its_bytes(channel: Channel) -> None:
    assert decode_channel(encode_channel(channel), channel.model, channel.name) == channel


def test_records_are_frozen_hashable_and_plain() -> None:
    manifest = unstored(1)
    with pytest.raises(AttributeError):
        manifest.version = 3  # type: ignore[misc]
    assert len({manifest, unstored(1), unstored(2)}) == 2
    assert copy.deepcopy(manifest) == manifest
    assert asdict(manifest)["program"]["kind"] == "import_path"


def test_a_manifest_keeps_its_own_metrics() -> None:
    metrics = {"auc": 0.5}
    manifest = replace(unstored(1), metrics=metrics)
    metrics["auc"] = 0.0
    assert manifest.metrics == {"auc": 0.5}


def test_a_manifest_names_each_blob_once() -> None:
    manifest = unstored(1)
    twice = replace(manifest, tensors=(*manifest.tensors, *manifest.tensors))
    assert len(manifest.digests()) == 3
    assert twice.digests() == manifest.digests() == sorted(manifest.digests())
    assert len(replace(manifest, probe=None).digests()) == 2


def test_a_manifest_of_deltas_names_its_anchor_and_its_steps() -> None:
    manifest = unstored(1)
    based = replace(manifest.tensors[0], base_digest=digest(b"anchor"))
    step = DeltaStep(1, digest(b"delta"), 5)
    named = set(replace(manifest, tensors=(based,), deltas=(step,)).digests())
    assert named - set(manifest.digests()) == {digest(b"anchor"), digest(b"delta")}
    assert set(manifest.digests()) - named == {manifest.tensors[0].digest}


def test_the_digest_of_a_manifest_tells_contents_apart() -> None:
    assert manifest_digest(unstored(1)) == manifest_digest(unstored(1))
    assert manifest_digest(unstored(1)) != manifest_digest(unstored(2))


@pytest.mark.parametrize("kind", [manifest_pb2.PROGRAM_KIND_UNSPECIFIED, 99])
def test_a_program_of_unknown_kind_is_refused(kind: int) -> None:
    envelope = manifest_pb2.Record.FromString(encode_manifest(unstored(1)))
    message = manifest_pb2.Manifest.FromString(envelope.payload)
    message.program.kind = kind
    payload = message.SerializeToString()
    record = manifest_pb2.Record(payload=payload, digest=digest(payload)).SerializeToString()
    with pytest.raises(DataLoss, match="unknown here"):
        decode_manifest(record, message.model)


@given(st.binary(max_size=300))
def test_a_digest_is_blake3(content: bytes) -> None:
    assert digest(content) == f"blake3:{blake3(content).hexdigest()}"
    assert checked_digest(digest(content)) == digest(content)


def test_a_large_buffer_has_the_same_digest_on_every_core() -> None:
    content = bytes(range(256)) * 20_000
    assert digest(bytearray(content)) == f"blake3:{blake3(content).hexdigest()}"


FORKED = """
import os
from model_store.digests import digest
content = bytes(3_000_000)
expected = digest(content)
child = os.fork()
if child == 0:
    os._exit(digest(content) != expected)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_hashes_large_buffers_without_its_parents_threads() -> None:
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", FORKED], cwd=root, check=True, timeout=60)


def test_verified_bytes_are_returned_and_others_are_lost() -> None:
    assert verified(b"x", digest(b"x")) == b"x"
    with pytest.raises(DataLoss):
        verified(b"y", digest(b"x"))


@pytest.mark.parametrize("name", ["blake3:" + "A" * 64, "blake3:" + "0" * 63, "blake3:" + "0" * 65])
def test_a_digest_has_one_spelling(name: str) -> None:
    with pytest.raises(InvalidArgument):
        checked_digest(name)


def test_the_signature_keeps_its_order() -> None:
    swapped = Signature(SIGNATURE.outputs, SIGNATURE.inputs, 0)
    manifest = replace(unstored(1), signature=swapped)
    assert decode_manifest(encode_manifest(manifest), manifest.model).signature == swapped
