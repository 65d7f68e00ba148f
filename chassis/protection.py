"""What every server may be given against the world: TLS, identities, quotas, limits.

The settings are the same for each service and protocol; a service's own settings class stands on
`ProtectedSettings`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from chassis.connections import ConnectionLimits
from chassis.errors import InvalidArgument
from chassis.guard import Guard
from chassis.policy.quota import Quota
from chassis.settings import Settings
from chassis.tls import ServerTls

MS = 1000


class ProtectedSettings(Settings):
    """Each field: its unit, and why the default is what it is. Times and counts of 0 are off."""

    # PEM files of the server's certificate chain and key; without them all is plaintext.
    tls_cert: Path | None = None
    tls_key: Path | None = None
    # PEM file of who signs clients' certificates: a client without one is then turned away.
    tls_client_ca: Path | None = None
    # YAML or JSON file of identities, see docs/security.md; without it nobody is asked who asks.
    auth_file: Path | None = None

    # Quota of each identity that has none of its own; without an auth file, of all callers
    # together. Off: one team's system needs none, and a wrong one refuses good requests.
    quota_requests_per_s: float = Field(0.0, ge=0)
    quota_bytes_per_s: float = Field(0.0, ge=0)
    quota_max_concurrent: int = Field(0, ge=0)
    # What may come at once after a rest; 0 is what one second brings.
    quota_burst_requests: float = Field(0.0, ge=0)
    quota_burst_bytes: float = Field(0.0, ge=0)

    # Connections at once. Below the usual 1024 descriptors of a process, which Redis, files and
    # endpoints share.
    max_connections: int = Field(768, ge=0)
    # Calls at once on one connection; a client of gRPC keeps more of them waiting. Measured with
    # 1,000 outstanding calls of 0.1 s on one channel: 0.25 s, against 1.1 s with Envoy's 100.
    max_streams: int = Field(1000, ge=0)
    # Calls at once in all, streams included: some 20 KB each even if nothing is ever sent.
    max_calls: int = Field(16384, ge=0)
    # Bytes of a call's headers, with 32 for each beside name and value; HTTP servers' usual bound.
    max_metadata_bytes: int = Field(16 * 1024, ge=1024)
    # Seconds for TLS and HTTP/2 to get going.
    handshake_timeout_s: float = Field(2.0, gt=0)
    # Seconds in which the message of a call that has one must be there after its headers. A slow
    # link may carry the largest message; a caller that sends no body holds its call no longer.
    request_timeout_s: float = Field(60.0, ge=0)
    # Seconds without a call after which a connection is closed; its client opens another.
    max_connection_idle_s: float = Field(600.0, ge=0)
    # Seconds after which a connection takes no new calls, so that balancers spread clients anew.
    # Off: streams that outlive the grace after it are cut.
    max_connection_age_s: float = Field(0.0, ge=0)
    # Seconds that running calls get then; 0 is until they end.
    max_connection_age_grace_s: float = Field(0.0, ge=0)
    # Whether gzip and deflate are taken. What a message inflates to is bounded as it travels
    # plain (tested), so it costs time only: a second for each 256 MiB.
    accept_compression: bool = True

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key go together")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        return self


@dataclass(frozen=True, slots=True)
class Protection:
    """One process's; every server of it, whatever its protocol, shares the guard."""

    tls: ServerTls | None = None
    guard: Guard | None = None
    limits: ConnectionLimits = field(default_factory=ConnectionLimits)

    def without_quotas(self) -> Protection:
        """For a port of operators: callers who are not told apart must not use up their quota."""
        guard = self.guard if self.guard is not None and self.guard.asks else None
        return replace(self, guard=guard)

    @property
    def complete(self) -> bool:
        """Whether strangers may reach the port: encrypted, and everybody says who they are."""
        asks = self.guard is not None and self.guard.asks
        return self.tls is not None and (asks or self.tls.client_ca is not None)


def protection_of(settings: ProtectedSettings) -> Protection:
    """What the settings ask for. Raises InvalidArgument (BAD_AUTH_FILE, BAD_SETTING)."""
    tls = None
    if settings.tls_cert and settings.tls_key:
        tls = ServerTls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    quota = Quota(
        settings.quota_requests_per_s,
        settings.quota_bytes_per_s,
        settings.quota_max_concurrent,
        settings.quota_burst_requests,
        settings.quota_burst_bytes,
    )
    guarded = settings.auth_file or settings.tls_client_ca or not quota.unbounded
    guard = Guard(settings.auth_file, quota) if guarded else None
    if guard is not None and guard.certificates and (tls is None or tls.client_ca is None):
        raise InvalidArgument(
            "BAD_SETTING",
            f"auth file {settings.auth_file} names certificates; they need setting tls_client_ca",
        )
    return Protection(tls, guard, _limits(settings))


def _limits(settings: ProtectedSettings) -> ConnectionLimits:
    return ConnectionLimits(
        connections=settings.max_connections,
        streams=settings.max_streams,
        calls=settings.max_calls,
        metadata_bytes=settings.max_metadata_bytes,
        handshake_ms=round(settings.handshake_timeout_s * MS),
        request_s=settings.request_timeout_s,
        idle_ms=round(settings.max_connection_idle_s * MS),
        age_ms=round(settings.max_connection_age_s * MS),
        age_grace_ms=round(settings.max_connection_age_grace_s * MS),
        compression=settings.accept_compression,
    )
