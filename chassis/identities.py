"""The auth file: who may ask, how each proves it, and what each may do.

```yaml
identities:
  - name: shop
    token_digests: ["sha256:9f86d0..."]     # `headrace token` makes a pair
    certificates: ["spiffe://example.org/shop", "shop.example.org"]
    roles: [infer]                           # and, or: control
    models: [clicks]                         # all where left out
    quota: {requests_per_s: 200, bytes_per_s: 50000000, max_concurrent: 64}
```

YAML or JSON. `tokens` may stand for `token_digests` where the file itself is a secret. A wrong file
is refused whole, with a sentence that never holds a token.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chassis.errors import InvalidArgument
from chassis.policy.quota import Quota

INFER = "infer"
CONTROL = "control"
# 128 random bits need 22 characters of base64; shorter ones may be guessed.
MIN_TOKEN_CHARS = 16
MAX_FILE_BYTES = 4 * 1024 * 1024
DIGEST_PREFIX = "sha256:"


class _QuotaEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    requests_per_s: float = Field(0.0, ge=0)
    bytes_per_s: float = Field(0.0, ge=0)
    max_concurrent: int = Field(0, ge=0)
    burst_requests: float = Field(0.0, ge=0)
    burst_bytes: float = Field(0.0, ge=0)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@:/-]*$")
    tokens: tuple[str, ...] = ()
    token_digests: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    roles: tuple[Literal["infer", "control"], ...] = ("infer",)
    models: tuple[str, ...] | None = None
    quota: _QuotaEntry | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    identities: tuple[_Entry, ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody known. `models` None is all; `quota` None is the server's default."""

    name: str
    roles: frozenset[str] = frozenset({INFER})
    models: frozenset[str] | None = None
    quota: Quota | None = None

    def may_use(self, model: str) -> bool:
        """Whether requests for the model are allowed."""
        return self.models is None or model in self.models


class Identities:
    """Finds an identity by token or by certificate."""

    def __init__(self, entries: Iterable[tuple[Identity, Sequence[bytes], Sequence[str]]]) -> None:
        """Entries: identity, SHA-256 digests of its tokens, names in its certificates."""
        # Tokens are looked up under a key of this process's own: how long a look-up takes then
        # tells nothing about the digests, and the last comparison takes constant time.
        self._key = secrets.token_bytes(32)
        self._by_token: dict[bytes, tuple[bytes, Identity]] = {}
        self._by_certificate: dict[str, Identity] = {}
        self.names: frozenset[str] = frozenset()
        for identity, digests, certificates in entries:
            self._add(identity, digests, certificates)

    @property
    def certificates(self) -> bool:
        """Whether any identity may come by certificate."""
        return bool(self._by_certificate)

    def of_token(self, token: str) -> Identity | None:
        """The identity whose token it is."""
        digest = token_digest(token)
        known, identity = self._by_token.get(self._keyed(digest), (b"", None))
        return identity if hmac.compare_digest(digest, known) else None

    def of_certificate(self, names: Iterable[str]) -> Identity | None:
        """The identity that the first known of a certificate's names belongs to."""
        found = (self._by_certificate.get(name) for name in names)
        return next((identity for identity in found if identity is not None), None)

    def _add(
        self, identity: Identity, digests: Sequence[bytes], certificates: Sequence[str]
    ) -> None:
        if identity.name in self.names:
            raise _bad(f"identity {identity.name!r} is named twice")
        self.names |= {identity.name}
        for digest in digests:
            if self._keyed(digest) in self._by_token:
                raise _bad(f"a token of identity {identity.name!r} belongs to another one as well")
            self._by_token[self._keyed(digest)] = (digest, identity)
        for name in certificates:
            if name in self._by_certificate:
                raise _bad(f"certificate name {name!r} belongs to two identities")
            self._by_certificate[name] = identity

    def _keyed(self, digest: bytes) -> bytes:
        return hmac.digest(self._key, digest, "sha256")


def token_digest(token: str) -> bytes:
    """SHA-256 of the token's UTF-8 bytes; a lone surrogate counts as itself."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def new_token() -> str:
    """A random token of 256 bits, in letters that URLs and shells leave alone."""
    return "hr_" + secrets.token_urlsafe(32)


def digest_text(token: str) -> str:
    """The token's digest as the auth file holds it."""
    return DIGEST_PREFIX + token_digest(token).hex()


def read_identities(file: Path) -> Identities:
    """Reads an auth file. Raises InvalidArgument (BAD_AUTH_FILE)."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _bad(f"it cannot be read: {error.strerror}", file) from None
    if len(content) > MAX_FILE_BYTES:
        raise _bad(f"it is larger than {MAX_FILE_BYTES} bytes", file)
    try:
        return parsed_identities(content)
    except InvalidArgument as error:
        raise _bad(error.message, file) from None


def parsed_identities(content: bytes) -> Identities:
    """Identities from a YAML or JSON document. Raises InvalidArgument (BAD_AUTH_FILE)."""
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        # The parser's own words would show a piece of the file.
        raise _bad("it is neither YAML nor JSON") from None
    try:
        parsed = _File.model_validate(document)
    except ValidationError as error:
        raise _bad(_sentences(error)) from None
    return Identities(
        (_identity(entry), _digests(entry), entry.certificates) for entry in parsed.identities
    )


def _identity(entry: _Entry) -> Identity:
    return Identity(
        entry.name,
        frozenset(entry.roles),
        None if entry.models is None else frozenset(entry.models),
        None if entry.quota is None else Quota(**entry.quota.model_dump()),
    )


def _digests(entry: _Entry) -> list[bytes]:
    if not (entry.tokens or entry.token_digests or entry.certificates):
        raise _bad(f"identity {entry.name!r} has neither a token nor a certificate")
    digests = [_parsed_digest(text, entry.name) for text in entry.token_digests]
    for token in entry.tokens:
        if len(token) < MIN_TOKEN_CHARS:
            raise _bad(
                f"a token of identity {entry.name!r} is shorter than {MIN_TOKEN_CHARS} characters"
            )
        digests.append(token_digest(token))
    return digests


def _parsed_digest(text: str, name: str) -> bytes:
    try:
        digest = bytes.fromhex(text.removeprefix(DIGEST_PREFIX))
    except ValueError:
        digest = b""
    if not text.startswith(DIGEST_PREFIX) or len(digest) != hashlib.sha256().digest_size:
        raise _bad(
            f"a token digest of identity {name!r} is not {DIGEST_PREFIX} and 64 hex digits; "
            "`headrace token` prints one"
        )
    return digest


def _sentences(error: ValidationError) -> str:
    """Without the input, which may be a token."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'the document'}: {item['msg']}"
        for item in error.errors(include_input=False, include_url=False)
    )


def _bad(sentence: str, file: Path | None = None) -> InvalidArgument:
    where = f"auth file {file}: " if file else ""
    return InvalidArgument("BAD_AUTH_FILE", f"{where}{sentence}")
