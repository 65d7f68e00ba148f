"""A replica with trusted keys: what it refuses, that what serves stays, and what replays are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from chassis.errors import FailedPrecondition, InvalidArgument
from inference_service import trust
from inference_service.trust import Trust
from model_store.record_bytes import encode_manifest
from model_store.records import Manifest
from model_store.signing import NewKey, SigningKey, load_signing_key, new_key, signed
from tests.inference_service.follower import Follower
from tests.inference_service.line import Line, expected
from tests.inference_service.served_replica import ServedReplica

X = np.arange(12, dtype=np.float32).reshape(3, 4)


class Signer:
    """Signs what a line publishes; each with a commit id of its own."""

    def __init__(self, made: NewKey) -> None:
        self.public = str(made.public)
        self.key: SigningKey = load_signing_key(made.private)
        self.commits = 0

    def __call__(self, manifest: Manifest, **facts: object) -> Manifest:
        self.commits += 1
        commit_id = f"{self.key.key_id}-{self.commits}"
        return signed(replace(manifest, commit_id=commit_id, **facts), self.key)


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(new_key(tmp_path / "trusted"))


@pytest.fixture
def stranger(tmp_path: Path) -> Signer:
    return Signer(new_key(tmp_path / "stranger"))


@pytest.fixture
def distrustful(store_url: str, signer: Signer):
    with Follower(store_url, trust=Trust([signer.public])) as started:
        yield started


def refused(line: Line, follower: Follower, change, reason: str) -> None:
    """Version 2 is refused while version 1 serves on; version 3, signed, heals it."""
    follower.wait_serving(1)
    version = line.publish(2.0, change=change)
    snapshot = follower.wait_failed(version)
    assert (snapshot.failures[0].version, snapshot.failures[0].reason) == (version, reason)
    assert snapshot.failures[0].permanent
    answered, y = follower.answer(X)
    assert answered == 1
    np.testing.assert_array_equal(y, expected(1.0, X))


@pytest.fixture
def begun(line: Line, signer: Signer) -> Line:
    line.publish(1.0, change=signer)
    return line


def test_signed_versions_serve(begun, distrustful, signer):
    distrustful.wait_serving(1)
    distrustful.wait_serving(begun.publish(2.0, change=signer))
    np.testing.assert_array_equal(distrustful.answer(X)[1], expected(2.0, X))


def test_an_unsigned_version(begun, distrustful, signer):
    refused(begun, distrustful, None, "UNSIGNED")
    distrustful.wait_serving(begun.publish(3.0, change=signer))


def test_a_stranger_s_version(begun, distrustful, stranger):
    refused(begun, distrustful, stranger, "UNTRUSTED_KEY")


def test_other_weights_under_a_true_signature(begun, distrustful, signer):
    def change(manifest: Manifest) -> Manifest:
        entry = begun.put("bias", torch.ones(3))
        others = [tensor for tensor in manifest.tensors if tensor.name != "bias"]
        return replace(signer(manifest), tensors=(*others, entry))

    refused(begun, distrustful, change, "BAD_SIGNATURE")


def test_a_signature_of_another_model(begun, distrustful, signer):
    def change(manifest: Manifest) -> Manifest:
        return replace(signer(replace(manifest, model="other")), model=manifest.model)

    refused(begun, distrustful, change, "BAD_SIGNATURE")


def test_without_trusted_keys_anything_is_loaded(line, follower, signer):
    for change in (None, signer):
        follower.wait_serving(line.publish(1.0, change=change))


def test_an_unsigned_head_falls_back_at_the_start(begun, store_url, signer):
    """A replica that starts serves the newest version that it trusts."""
    begun.publish(2.0)
    with Follower(store_url, trust=Trust([signer.public])) as late:
        snapshot = late.wait_serving(1)
        assert snapshot.failures[0].reason == "UNSIGNED"


def test_keys_are_rotated(begun, store_url, signer, stranger):
    with Follower(store_url, trust=Trust([signer.public, stranger.public])) as both:
        both.wait_serving(1)
        both.wait_serving(begun.publish(2.0, change=stranger))
    with Follower(store_url, trust=Trust([stranger.public])) as retired:
        retired.wait_serving(2)


def test_a_copy_of_an_old_manifest_under_a_new_number(file_store, signer, tmp_path):
    """What somebody can do who may write the store's files, with a signature that is true."""
    line = Line(file_store)
    with Follower(file_store.url, trust=Trust([signer.public])) as follower:
        for weight in (1.0, 2.0):
            follower.wait_serving(line.publish(weight, change=signer))
        copy = replace(file_store.manifest("affine", 1), version=3)
        path = tmp_path / "store/models/affine/versions/000000000003"
        path.write_bytes(encode_manifest(copy))
        file_store.move_channel("affine", "stable", 3, expected_revision=2, reason="attack")
        failure = follower.wait_failed(3).failures[0]
        assert (failure.reason, failure.permanent) == ("REPLAYED", True)
        assert follower.answer(X)[0] == 2


def checked(manifest: Manifest, keys: Trust) -> str:
    with pytest.raises(FailedPrecondition) as caught:
        keys.check(manifest)
    return caught.value.reason


def test_a_signed_manifest_under_a_second_number(line, signer):
    keys = Trust([signer.public])
    made = replace(signer(line.manifest(1.0)), version=4)
    keys.check(made)
    keys.check(made)
    assert checked(replace(made, version=9), keys) == "REPLAYED"
    # The true one may come back: a rollback.
    keys.check(made)


def test_an_earlier_epoch_under_a_later_number(line, signer):
    """Also after a restart, once a version of the newest epoch was seen."""
    old = replace(signer(line.manifest(1.0), epoch=2), version=3)
    unfenced = replace(signer(line.manifest(1.0)), version=9)
    keys = Trust([signer.public])
    keys.check(replace(signer(line.manifest(2.0), epoch=5), version=7))
    assert checked(replace(old, version=8), keys) == "REPLAYED"
    # What was refused is not remembered: under its own number it is a rollback.
    keys.check(old)
    keys.check(unfenced)


def test_models_are_kept_apart(line, signer):
    keys = Trust([signer.public])
    keys.check(replace(signer(line.manifest(1.0), epoch=5), version=7))
    keys.check(replace(signer(replace(line.manifest(1.0), model="other"), epoch=2), version=8))


def test_what_is_remembered_is_bounded(line, signer, monkeypatch):
    monkeypatch.setattr(trust, "MOST_COMMITS", 2)
    keys = Trust([signer.public])
    made = [replace(signer(line.manifest(1.0)), version=number) for number in (1, 2, 3)]
    for manifest in made:
        keys.check(manifest)
    assert checked(replace(made[1], version=9), keys) == "REPLAYED"
    keys.check(replace(made[0], version=9))


def test_keys_that_cannot_be_read_are_told_at_the_start(store_url, tmp_path):
    with pytest.raises(InvalidArgument, match="cannot be read"):
        ServedReplica(store_url, trusted_keys=str(tmp_path / "absent.pub"))


async def test_a_replica_tells_in_its_status(store_url, begun, signer):
    async with ServedReplica(store_url, trusted_keys=signer.public) as replica:
        await replica.wait_ready()
        begun.publish(2.0)
        status = await replica.wait(lambda model: bool(model.failures))
        assert (status.serving_version, status.wanted_version) == (1, 2)
        assert (status.failures[0].version, status.failures[0].reason) == (2, "UNSIGNED")
        assert "signatures are required" in status.failures[0].message
