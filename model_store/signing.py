"""Who published a version: an Ed25519 signature over its manifest, made and checked.

Decides what is signed (`record_bytes.signed_bytes`: all of a manifest but what the store assigns),
what a key file is, and how a key is named. Which keys a reader trusts, and what it remembers of
versions it has seen, is its own decision.

Without the package cryptography the import raises FailedPrecondition (NO_SIGNING).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from chassis.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from model_store.digests import digest, hex_part
from model_store.record_bytes import signed_bytes
from model_store.records import Manifest, SignedBy

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
        load_pem_private_key,
        load_pem_public_key,
    )
except ImportError as missing:
    raise FailedPrecondition(
        "NO_SIGNING", "signatures need the cryptography package: pip install 'headrace[signing]'"
    ) from missing

# Of the digest's hexadecimal digits: a name for people and a look-up, the key itself decides.
_ID_DIGITS = 32
_OTHERS = stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A publisher's private key; `key_id` is its public half's."""

    key_id: str
    private: Ed25519PrivateKey

    def __repr__(self) -> str:
        return f"SigningKey({self.key_id})"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key pair that was made: its id and its two files."""

    key_id: str
    private: Path
    public: Path


def new_key(path: Path) -> NewKey:
    """Makes a key pair: the private half in the new file `path`, for its owner only, the public
    half beside it in `path`.pub. Both are PEM, without a passphrase.

    Raises AlreadyExists (KEY_EXISTS), FailedPrecondition (KEY_ACCESS).
    """
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    beside = path.with_name(f"{path.name}.pub")
    try:
        _create(
            path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600
        )
        _create(beside, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    except FileExistsError as error:
        raise AlreadyExists(
            "KEY_EXISTS", f"{error.filename} exists; a key is never replaced"
        ) from None
    except OSError as error:
        raise FailedPrecondition(
            "KEY_ACCESS", f"key {path} cannot be written: {error.strerror}"
        ) from None
    return NewKey(_key_id(public), path, beside)


def _create(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def load_signing_key(path: str | Path) -> SigningKey:
    """The private key in a PEM file without a passphrase.

    Raises InvalidArgument (BAD_KEY), also where users who are not in the file's group may read it.
    """
    content = _content(path)
    if Path(path).stat().st_mode & _OTHERS:
        raise _bad(path, "is open to every user of the machine; expected mode 600")
    try:
        private = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _bad(path, "holds no private key in PEM without a passphrase") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise _bad(path, "holds another kind of key; expected Ed25519")
    return SigningKey(_key_id(private.public_key()), private)


def load_trusted_keys(paths: Iterable[str | Path]) -> dict[str, Ed25519PublicKey]:
    """The public keys in PEM files, by their ids. Raises InvalidArgument (BAD_KEY)."""
    keys = [_public_key(path) for path in paths]
    return {_key_id(key): key for key in keys}


def _public_key(path: str | Path) -> Ed25519PublicKey:
    content = _content(path)
    try:
        public = load_pem_public_key(content)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _bad(path, "holds no public key in PEM") from None
    if not isinstance(public, Ed25519PublicKey):
        raise _bad(path, "holds another kind of key; expected Ed25519")
    return public


def _content(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _bad(path, f"cannot be read: {error.strerror}") from None


def _key_id(public: Ed25519PublicKey) -> str:
    return hex_part(digest(public.public_bytes(Encoding.Raw, PublicFormat.Raw)))[:_ID_DIGITS]


def signed(manifest: Manifest, key: SigningKey) -> Manifest:
    """The manifest with `key`'s signature; nothing but version and create time may change after.

    Raises InvalidArgument (BAD_MANIFEST) where the commit id is left to the store.
    """
    if not manifest.commit_id:
        raise InvalidArgument("BAD_MANIFEST", "a manifest that is signed needs its commit id")
    signature = key.private.sign(signed_bytes(manifest))
    return replace(manifest, signed_by=SignedBy(key.key_id, signature))


def verify(manifest: Manifest, keys: Mapping[str, Ed25519PublicKey]) -> None:
    """Refuses a manifest that none of `keys` has signed as it stands.

    Raises FailedPrecondition (UNSIGNED, UNTRUSTED_KEY, BAD_SIGNATURE).
    """
    what = f"version {manifest.version} of model {manifest.model!r}"
    signature = manifest.signed_by
    if signature is None:
        raise FailedPrecondition("UNSIGNED", f"{what} is not signed, and signatures are required")
    key = keys.get(signature.key_id)
    if key is None:
        raise FailedPrecondition(
            "UNTRUSTED_KEY", f"{what} is signed by key {signature.key_id[:64]!r}, not trusted here"
        )
    try:
        key.verify(signature.signature, signed_bytes(manifest))
    except InvalidSignature:
        raise FailedPrecondition(
            "BAD_SIGNATURE", f"{what} is not what key {signature.key_id} has signed"
        ) from None


def _bad(path: str | Path, what: str) -> InvalidArgument:
    return InvalidArgument("BAD_KEY", f"key file {path} {what}")
