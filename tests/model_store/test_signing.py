"""What a signature covers, what key files must be, and that a signature outlives every store."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from google.protobuf.descriptor import FieldDescriptor

from chassis.errors import AlreadyExists, FailedPrecondition, HeadraceError, InvalidArgument
from chassis.tensors import Padding, Signature, TensorSpec
from model_store import record_bytes
from model_store.digests import digest
from model_store.record_bytes import decode_manifest, encode_manifest, sealed, unseal
from model_store.records import Manifest, ModuleConfig, SignedBy, TensorEntry
from model_store.signing import load_signing_key, load_trusted_keys, new_key, signed, verify
from protos.headrace.v1 import manifest_pb2
from tests.model_store.samples import stored, unstored

ASSIGNED = {"version", "create_time_ms"}


@pytest.fixture
def pair(tmp_path: Path):
    """A signing key and the keys that trust it alone."""
    made = new_key(tmp_path / "key")
    return load_signing_key(made.private), load_trusted_keys([made.public])


def full() -> Manifest:
    """A manifest in which as much as possible is set, with two of what repeats."""
    signature = Signature(
        inputs=(TensorSpec("a", "INT64", (-1, -1)), TensorSpec("b", "FP32", (-1, -1))),
        outputs=(TensorSpec("y", "FP32", (-1, -1)), TensorSpec("z", "FP32", (-1, 3))),
        max_batch_size=8,
        padding=(Padding(1, (16, 64), (("a", 2.0), ("b", 1.0)), ("y",)),),
        labels=(("z", ("no", "yes", "perhaps")),),
    )
    first = unstored(7, epoch=3, commit_id="commit-7")
    second = TensorEntry("other", "INT8", (2,), digest(b"ab"), 2)
    return replace(
        first,
        signature=signature,
        tensors=(*first.tensors, second),
        parent=4,
        metrics={"auc": 0.5, "loss": 0.25},
        config=ModuleConfig(digest(b"{}"), 2),
    )


def refusal(manifest: Manifest, keys) -> str:
    with pytest.raises(FailedPrecondition) as caught:
        verify(manifest, keys)
    return caught.value.reason


def test_what_is_signed_verifies_after_every_store(store_url, opened, pair):
    key, keys = pair
    store = opened()
    sent = signed(stored(store, 1, commit_id="first"), key)
    made = store.create_version(sent)
    assert (made.version, made.signed_by) == (1, sent.signed_by)
    verify(opened().manifest(made.model, 1), keys)


def test_a_full_manifest_verifies_after_its_bytes(pair):
    key, keys = pair
    made = replace(signed(full(), key), version=5, create_time_ms=99)
    verify(decode_manifest(encode_manifest(made), made.model, 5), keys)


Alteration = tuple[str, Callable[[Any], None]]


def alterations(message: Any, path: tuple[Any, ...] = ()) -> Iterator[Alteration]:
    """Every way to change one field of a message, those of the messages in it included."""
    for field in message.DESCRIPTOR.fields:
        at = (*path, field.name)
        if not path and field.name in ASSIGNED | {"signed_by"}:
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            yield (
                _named(at, "changed"),
                _at(path, lambda m, f=field: _change_map(getattr(m, f.name))),
            )
            yield (
                _named(at, "more"),
                _at(path, lambda m, f=field: getattr(m, f.name).update(new=1.0)),
            )
            yield _named(at, "less"), _at(path, lambda m, f=field: getattr(m, f.name).clear())
        elif field.is_repeated:
            yield from _of_repeated(field, value, path, at)
        elif field.message_type is not None:
            yield _named(at, "gone"), _at(path, lambda m, f=field: _toggle(m, f.name))
            yield from alterations(value, at)
        else:
            yield _named(at, "changed"), _at(path, lambda m, f=field: _change(m, f))


def _of_repeated(
    field: FieldDescriptor, value: Any, path: tuple[Any, ...], at: tuple[Any, ...]
) -> Iterator[Alteration]:
    if field.message_type is None:
        other = _other(field, value[0] if value else None)
        yield _named(at, "more"), _at(path, lambda m: getattr(m, field.name).append(other))
        if value:
            yield (
                _named(at, "first"),
                _at(path, lambda m: getattr(m, field.name).__setitem__(0, other)),
            )
    else:
        yield _named(at, "more"), _at(path, lambda m: getattr(m, field.name).add())
        if value:
            yield from alterations(value[0], (*at, 0))
    if value:
        yield _named(at, "less"), _at(path, lambda m: getattr(m, field.name).pop())


def _named(at: tuple[Any, ...], how: str) -> str:
    return ".".join(map(str, at)) + f" {how}"


def _at(path: tuple[Any, ...], change: Callable[[Any], None]) -> Callable[[Any], None]:
    def alter(message: Any) -> None:
        for part in path:
            message = message[part] if isinstance(part, int) else getattr(message, part)
        change(message)

    return alter


def _toggle(message: Any, name: str) -> None:
    if message.HasField(name):
        message.ClearField(name)
    else:
        getattr(message, name).SetInParent()


def _change_map(values: Any) -> None:
    first = next(iter(values))
    values[first] += 1


def _change(message: Any, field: FieldDescriptor) -> None:
    setattr(message, field.name, _other(field, getattr(message, field.name)))


def _other(field: FieldDescriptor, value: Any) -> Any:
    kind = type(value) if value is not None else {9: str, 12: bytes, 1: float}.get(field.type, int)
    if kind is bool:
        return not value
    if field.name == "kind":
        return 3 - value
    if field.name == "datatype":
        return "INT32"
    if kind in (str, bytes):
        return (value or kind()) + (b"x" if kind is bytes else "x")
    return (value or 0) + 1


def message_of(manifest: Manifest) -> Any:
    message = manifest_pb2.Manifest()
    unseal(encode_manifest(manifest), message, "X", "x")
    return message


ALTERATIONS = dict(alterations(message_of(full())))


def test_the_alterations_reach_everything():
    for name in (
        "step changed",
        "metrics more",
        "signature.inputs.0.shape first",
        "tensors.0.digest changed",
        "probe gone",
        "config.digest changed",
        "signature.padding.0.inputs.0.value changed",
        "program.kind changed",
        "epoch changed",
        "parent changed",
        "commit_id changed",
        "model changed",
    ):
        assert name in ALTERATIONS
    assert len(ALTERATIONS) > 50


@pytest.mark.parametrize("name", ALTERATIONS)
def test_every_alteration_is_refused(pair, name):
    key, keys = pair
    message = message_of(replace(signed(full(), key), version=5))
    ALTERATIONS[name](message)
    try:
        altered = decode_manifest(sealed(message), message.model)
    except HeadraceError:
        # It is no manifest any more.
        return
    assert refusal(altered, keys) == "BAD_SIGNATURE"


@pytest.mark.parametrize("field", sorted(ASSIGNED))
def test_what_the_store_assigns_is_free(pair, field):
    key, keys = pair
    verify(replace(signed(full(), key), **{field: 12}), keys)


@pytest.mark.parametrize("at", [0, 31, 32, 63])
def test_every_byte_of_the_signature_counts(pair, at):
    key, keys = pair
    made = signed(full(), key)
    content = bytearray(made.signed_by.signature)
    content[at] ^= 1
    wrong = replace(made, signed_by=SignedBy(key.key_id, bytes(content)))
    assert refusal(wrong, keys) == "BAD_SIGNATURE"


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 64, b"x" * 65])
def test_what_is_no_signature(pair, content):
    key, keys = pair
    wrong = replace(full(), signed_by=SignedBy(key.key_id, content))
    assert refusal(wrong, keys) == "BAD_SIGNATURE"


def test_unsigned_untrusted_and_pretended(pair, tmp_path):
    _, keys = pair
    stranger = load_signing_key(new_key(tmp_path / "stranger").private)
    made = signed(full(), stranger)
    assert refusal(full(), keys) == "UNSIGNED"
    assert refusal(made, keys) == "UNTRUSTED_KEY"
    (trusted,) = keys
    pretended = replace(made, signed_by=replace(made.signed_by, key_id=trusted))
    assert refusal(pretended, keys) == "BAD_SIGNATURE"


def test_two_trusted_keys_and_the_old_one_retired(tmp_path):
    old, new = new_key(tmp_path / "old"), new_key(tmp_path / "new")
    versions = [signed(full(), load_signing_key(made.private)) for made in (old, new)]
    both = load_trusted_keys([old.public, new.public])
    for version in versions:
        verify(version, both)
    retired = load_trusted_keys([new.public])
    assert refusal(versions[0], retired) == "UNTRUSTED_KEY"
    verify(versions[1], retired)


def test_the_prefix_keeps_other_uses_of_a_key_apart(pair):
    assert record_bytes.signed_bytes(full()).startswith(b"headrace manifest 1\0")


def test_a_commit_id_is_the_signer_s_to_give(pair):
    with pytest.raises(InvalidArgument, match="needs its commit id"):
        signed(replace(full(), commit_id=""), pair[0])


def test_a_store_refuses_a_signature_of_another_size(opened):
    store = opened()
    with pytest.raises(InvalidArgument, match="64 bytes"):
        store.create_version(replace(stored(store, 1), signed_by=SignedBy("a", b"short")))


def test_a_private_key_is_its_owner_s(tmp_path):
    made = new_key(tmp_path / "key")
    assert stat.S_IMODE(made.private.stat().st_mode) == 0o600
    assert made.public == tmp_path / "key.pub"
    made.private.chmod(0o640)
    assert load_signing_key(made.private).key_id == made.key_id
    made.private.chmod(0o644)
    with pytest.raises(InvalidArgument, match="open to every user"):
        load_signing_key(made.private)


def test_a_key_is_never_replaced(tmp_path):
    before = new_key(tmp_path / "key").private.read_bytes()
    with pytest.raises(AlreadyExists):
        new_key(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before
    with pytest.raises(FailedPrecondition, match="cannot be written"):
        new_key(tmp_path / "absent" / "key")


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def test_files_that_are_no_keys(tmp_path):
    made = new_key(tmp_path / "key")
    other = ec.generate_private_key(ec.SECP256R1())
    locked = ed25519.Ed25519PrivateKey.generate()
    pkcs8 = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    info = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    curve = write(tmp_path / "curve", other.private_bytes(*pkcs8))
    curve_public = write(tmp_path / "curve.pub", other.public_key().public_bytes(*info))
    junk = write(tmp_path / "junk", b"\0junk")
    for path in (curve, junk, made.public, tmp_path / "absent"):
        made.public.chmod(0o600)
        with pytest.raises(InvalidArgument) as caught:
            load_signing_key(path)
        assert caught.value.reason == "BAD_KEY"
    for path in (curve_public, junk, made.private, tmp_path / "absent"):
        with pytest.raises(InvalidArgument) as caught:
            load_trusted_keys([made.public, path])
        assert caught.value.reason == "BAD_KEY"
    assert repr(locked) not in repr(load_signing_key(made.private))
