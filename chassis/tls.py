"""TLS by files: credentials of a server and of a channel, read again when the files change.

Certificates are renewed every few weeks or hours; a server takes the new ones at the next
handshake, without a restart. Files that do not fit together are refused at start; later the log
tells of them and the old ones go on.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from chassis.errors import InvalidArgument
from chassis.telemetry import logger

log = logger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM files: the server's chain, its key, and who signs clients (None: they need none)."""

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM files: who signs servers (None: the system's), and the client's own chain and key."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    # The name that the server's certificate must hold where the address does not say it.
    server_name: str = ""


def server_credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """Credentials of a server; a client CA makes a client certificate a must.

    Raises InvalidArgument (BAD_TLS_FILE).
    """
    renewal = _Renewal(tls)
    return grpc.dynamic_ssl_server_credentials(
        renewal.configuration, renewal.newer, require_client_authentication=bool(tls.client_ca)
    )


def server_context(tls: ServerTls) -> ssl.SSLContext:
    """The same for a server that speaks TLS through Python's ssl, such as HTTP's.

    Raises InvalidArgument (BAD_TLS_FILE).
    """
    renewal = _ContextRenewal(tls)
    return renewal.context


def certificate_names(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Names in a verified client certificate as `ssl` tells it: URIs, other SANs, then the CN."""
    if not certificate:
        return ()
    others = [str(name) for _, name in certificate.get("subjectAltName", ())]
    others.sort(key=lambda text: "://" not in text)
    parts = [pair for relative in certificate.get("subject", ()) for pair in relative]
    return (*others, *(str(value) for key, value in parts if key == "commonName"))


def channel_credentials(tls: ClientTls) -> grpc.ChannelCredentials:
    """Credentials of a channel, as the files are now. Raises InvalidArgument (BAD_TLS_FILE)."""
    if tls.cert and tls.key:
        checked_pair(tls.cert, tls.key)
    elif tls.cert or tls.key:
        raise InvalidArgument("BAD_TLS_FILE", "a client certificate and its key go together")
    if tls.ca:
        checked_ca(tls.ca)
    ca, key, cert = (None if file is None else _read(file) for file in (tls.ca, tls.key, tls.cert))
    return grpc.ssl_channel_credentials(ca, key, cert)


def checked_pair(cert: Path, key: Path) -> None:
    """Raises InvalidArgument (BAD_TLS_FILE) unless the key is that of the chain's first."""
    for file in (cert, key):
        _read(file)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, ValueError):
        raise InvalidArgument(
            "BAD_TLS_FILE",
            f"{cert} and {key} are not a PEM certificate chain and its key without a password",
        ) from None


def checked_ca(file: Path) -> None:
    """Raises InvalidArgument (BAD_TLS_FILE) unless the file holds PEM certificates."""
    _read(file)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError:
        raise InvalidArgument("BAD_TLS_FILE", f"{file} holds no PEM certificates") from None


class _Renewal:
    """Called by gRPC in each handshake, in one of its threads."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._seen = _stamp(tls)
        self.configuration = _configuration(tls)

    def newer(self) -> Any:
        """The configuration if the files changed and fit together, else None: go on as before."""
        seen = _stamp(self._tls)
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            configuration = _configuration(self._tls)
        except InvalidArgument as error:
            log.error("TLS files refused, the old ones go on", error=error.message)
            return None
        log.info("TLS files read", cert=str(self._tls.cert))
        return configuration


class _ContextRenewal:
    """Looks at the files in each handshake; the context of a finished one is never touched."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._seen = _stamp(tls)
        self._newest = self.context = _context(tls)
        # Called in every handshake, with or without a server name in it.
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _old: object) -> None:
        seen = _stamp(self._tls)
        if seen != self._seen:
            self._seen = seen
            try:
                self._newest = _context(self._tls)
            except InvalidArgument as error:
                log.error("TLS files refused, the old ones go on", error=error.message)
            else:
                log.info("TLS files read", cert=str(self._tls.cert))
        connection.context = self._newest


def _context(tls: ServerTls) -> ssl.SSLContext:
    checked_pair(tls.cert, tls.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.cert, tls.key, password=_no_password)
    if tls.client_ca:
        checked_ca(tls.client_ca)
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _configuration(tls: ServerTls) -> grpc.ServerCertificateConfiguration:
    checked_pair(tls.cert, tls.key)
    if tls.client_ca:
        checked_ca(tls.client_ca)
    return grpc.ssl_server_certificate_configuration(
        [(_read(tls.key), _read(tls.cert))],
        root_certificates=_read(tls.client_ca) if tls.client_ca else None,
    )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidArgument(
            "BAD_TLS_FILE", f"TLS file {file} cannot be read: {error.strerror}"
        ) from None


def _stamp(tls: ServerTls) -> _Stamp:
    """Changes when a file does; a file that is missing has none."""
    found = []
    for file in (tls.cert, tls.key, tls.client_ca):
        try:
            status = file.stat() if file else None
        except OSError:
            status = None
        if status is not None:
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)


def _no_password() -> str:
    """Asked for where a key is encrypted; without it OpenSSL would ask on the terminal."""
    return ""
