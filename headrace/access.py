"""How a client reaches a server that asks for TLS or for a token."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, TypedDict

from chassis.connections import Access, checked_token, token_in
from chassis.errors import InvalidArgument
from chassis.settings import Settings
from chassis.tls import ClientTls


class Credentials(TypedDict, total=False):
    """Keyword arguments of the clients; without any, plaintext and nobody in particular."""

    # A bearer token, as `headrace token` makes one.
    token: str
    # PEM file of who signs the server's certificate.
    ca: str | Path
    # PEM files of the client's own certificate and its key, for servers that ask for one.
    cert: str | Path
    key: str | Path
    # The name in the server's certificate where the address is another.
    server_name: str
    # True for TLS with the authorities that this machine trusts; implied by the files.
    tls: bool


def access_of(credentials: Credentials) -> Access:
    """Raises InvalidArgument (BAD_TOKEN, BAD_CREDENTIALS)."""
    unknown = sorted(set(credentials) - set(Credentials.__annotations__))
    if unknown:
        raise InvalidArgument(
            "BAD_CREDENTIALS",
            f"argument {unknown[0]!r} is unknown; expected one of "
            + ", ".join(Credentials.__annotations__),
        )
    files = ClientTls(
        _path(credentials.get("ca")),
        _path(credentials.get("cert")),
        _path(credentials.get("key")),
        credentials.get("server_name", ""),
    )
    encrypted = credentials.get("tls", False) or files != ClientTls()
    token = credentials.get("token", "")
    return Access(files if encrypted else None, checked_token(token) if token else "")


class ClientSettings(Settings):
    """Section `client`: what the commands use to reach servers."""

    section: ClassVar[str] = "client"

    # File that holds a bearer token alone.
    token_file: Path | None = None
    # PEM file of who signs servers' certificates.
    ca: Path | None = None
    # PEM files of the client's own certificate and its key.
    cert: Path | None = None
    key: Path | None = None
    # The name in a server's certificate where the address is another.
    server_name: str = ""
    # TLS with the authorities that this machine trusts; implied by the files.
    tls: bool = False

    def credentials(self) -> Credentials:
        """As the clients take them. Raises InvalidArgument (BAD_TOKEN_FILE)."""
        found: Credentials = {"server_name": self.server_name, "tls": self.tls}
        if self.token_file:
            found["token"] = token_in(self.token_file)
        if self.ca:
            found["ca"] = self.ca
        if self.cert:
            found["cert"] = self.cert
        if self.key:
            found["key"] = self.key
        return found


def _path(file: str | Path | None) -> Path | None:
    return None if file is None else Path(file)
