"""Small manifests whose blobs are in the store, for tests of stores."""

from __future__ import annotations

import struct
from dataclasses import replace

from chassis.tensors import Signature, TensorSpec
from model_store import Store
from model_store.digests import digest
from model_store.records import Channel, Manifest, Probe, Program, ProgramKind, TensorEntry

MODEL = "clicks"
SIGNATURE = Signature(
    inputs=(TensorSpec("features", "FP32", (-1, 4)),),
    outputs=(TensorSpec("score", "FP32", (-1, 1)),),
    max_batch_size=8,
)
PROGRAM = b"examples.digits:Digits"
PROBE = b"golden"


def weights(step: int) -> bytes:
    """The 4-element FP32 tensor of a step: every element is the step."""
    return struct.pack("<4f", *[float(step)] * 4)


def unstored(step: int, *, model: str = MODEL, epoch: int = 0, commit_id: str = "") -> Manifest:
    """A manifest of the step, whose blobs may be in no store."""
    content = weights(step)
    return Manifest(
        model=model,
        program=Program(ProgramKind.IMPORT_PATH, digest(PROGRAM), len(PROGRAM)),
        signature=SIGNATURE,
        tensors=(TensorEntry("layer.weight", "FP32", (4,), digest(content), len(content)),),
        epoch=epoch,
        step=step,
        metrics={"auc": step / 1000},
        probe=Probe(digest(PROBE), len(PROBE), 1e-5, 1e-3),
        producer="host:1:run",
        commit_id=commit_id,
    )


def stored(
    store: Store, step: int, *, model: str = MODEL, epoch: int = 0, commit_id: str = ""
) -> Manifest:
    """A manifest of the step with its blobs put."""
    for content in (PROGRAM, PROBE, weights(step)):
        store.put_blob(content)
    return unstored(step, model=model, epoch=epoch, commit_id=commit_id)


def made(store: Store, step: int, *, model: str = MODEL, epoch: int = 0) -> Manifest:
    """A version of the step."""
    return store.create_version(stored(store, step, model=model, epoch=epoch))


def renamed(manifest: Manifest, tensor: str) -> Manifest:
    """The manifest with its first tensor under another name."""
    first = replace(manifest.tensors[0], name=tensor)
    return replace(manifest, tensors=(first, *manifest.tensors[1:]))


def assert_whole(store: Store, model: str = MODEL) -> list[int]:
    """No version is missing, and all are `assert_readable`; returns the versions."""
    versions = assert_readable(store, model)
    assert versions == list(range(1, len(versions) + 1))
    return versions


def assert_readable(store: Store, model: str = MODEL) -> list[int]:
    """Every version and channel can be read and means what its step says; returns the versions."""
    # Channels first: what they point to by now was a version before.
    channels = store.channels(model)
    versions = store.versions(model)
    for version in versions:
        manifest = store.manifest(model, version)
        assert manifest.version == version
        assert store.read_blob(manifest.tensors[0].digest) == weights(manifest.step)
        assert store.read_blob(manifest.program.digest) == PROGRAM
    for channel in channels:
        assert channel.version in versions
        assert channel.history[-1].version == channel.version
    return versions


def move(
    store: Store, version: int, expected: int, *, epoch: int = 0, held: bool = False
) -> Channel:
    """A move of the channel "stable", whose reason is "to VERSION"."""
    return store.move_channel(
        MODEL,
        "stable",
        version,
        expected_revision=expected,
        epoch=epoch,
        held=held,
        reason=f"to {version}",
    )
