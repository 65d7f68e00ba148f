"""gRPC channel and server options: sizes, limits, keepalive, and the defaults that surprise."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from chassis.errors import InvalidArgument
from chassis.tls import ClientTls, channel_credentials

# A SIGSTOPped peer stays hidden for 60 s beyond keepalive unless ping_timeout_ms is lowered too.
KEEPALIVE_MS = 10_000
PING_TIMEOUT_MS = 3_000
# One attempt to connect, handshakes included.
CONNECT_WITHIN_MS = 2_000
DEFAULT_MESSAGE_BYTES = 256 * 1024 * 1024
# Where calls are not bounded: as many as the settings' default allows at once.
PENDING_CALLS = 16_384

Options = list[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of one server; the settings (`chassis.protection`) say why. 0 is off."""

    connections: int = 0
    # Of one connection.
    streams: int = 1000
    # Of all connections.
    calls: int = 0
    metadata_bytes: int = 16 * 1024
    handshake_ms: int = 2_000
    # Seconds until a call's message is there.
    request_s: float = 60.0
    idle_ms: int = 0
    age_ms: int = 0
    age_grace_ms: int = 0
    compression: bool = True


@dataclass(frozen=True, slots=True)
class Access:
    """How a client of ours reaches a server: plaintext where `tls` is None; a bearer token."""

    tls: ClientTls | None = None
    token: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


PLAIN = Access()


def access_of_files(files: ClientTls, token_file: Path | None, *, setting: str) -> Access:
    """The access that settings named `setting`_ca, _cert, _key, _server_name, _token_file give.

    Raises InvalidArgument (BAD_SETTING, BAD_TOKEN_FILE).
    """
    if files.ca is None and files != ClientTls():
        raise InvalidArgument(
            "BAD_SETTING", f"{setting}_cert, _key and _server_name need {setting}_ca"
        )
    token = token_in(token_file) if token_file else ""
    return Access(None if files.ca is None else files, token)


def token_in(file: Path) -> str:
    """The bearer token that a file holds alone. Raises InvalidArgument (BAD_TOKEN_FILE)."""
    try:
        return checked_token(file.read_text().strip())
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidArgument(
            "BAD_TOKEN_FILE", f"token file {file} cannot be read: {cause}"
        ) from None
    except InvalidArgument as error:
        raise InvalidArgument("BAD_TOKEN_FILE", f"token file {file}: {error.message}") from None


def checked_token(token: str) -> str:
    """The token if a header can hold it. Raises InvalidArgument (BAD_TOKEN), without showing it."""
    if not (token.isascii() and token.isprintable() and token and " " not in token):
        raise InvalidArgument(
            "BAD_TOKEN", "a token is one word of printable ASCII characters, without spaces"
        )
    return token


def server_options(
    message_bytes: int = DEFAULT_MESSAGE_BYTES, limits: ConnectionLimits | None = None
) -> Options:
    """Options of every server; `message_bytes` bounds one received or sent message.

    A compressed message is bounded as it inflates, so the bound holds for it too (tested).
    """
    limits = limits or ConnectionLimits()
    pending = limits.calls or PENDING_CALLS
    optional = {
        "grpc.max_allowed_incoming_connections": limits.connections,
        "grpc.max_concurrent_streams": limits.streams,
        "grpc.max_connection_idle_ms": limits.idle_ms,
        "grpc.max_connection_age_ms": limits.age_ms,
        "grpc.max_connection_age_grace_ms": limits.age_grace_ms,
    }
    if not limits.compression:
        optional["grpc.compression_enabled_algorithms_bitset"] = 1
    return [
        # A second server on the port would start silently and take half the traffic.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", message_bytes),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
        # Consent to clients that ping as often as ours do.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.server_handshake_timeout_ms", limits.handshake_ms),
        # Hard and soft alike: between the two gRPC would draw lots.
        ("grpc.max_metadata_size", limits.metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.metadata_bytes),
        # It counts streams that the client rightly takes for ended, and refuses a third of the
        # calls of a well-behaved client at the bound. The bound itself holds without it.
        ("grpc.http.overload_protection", 0),
        # Calls read and not yet handed over. At the default of 1,000 a burst of streams reset at
        # once had calls of other connections cancelled (10 % of the next ones, measured).
        ("grpc.server.max_pending_requests", pending),
        ("grpc.server.max_pending_requests_hard_limit", pending),
        *((name, value) for name, value in optional.items() if value),
    ]


def client_options(message_bytes: int = DEFAULT_MESSAGE_BYTES) -> Options:
    """Options of every channel to one of our servers or to another OIP server."""
    return [
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", message_bytes),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        # A replica that restarts on its port must be found again within a fraction of a second.
        ("grpc.initial_reconnect_backoff_ms", 100),
        # What gRPC calls so is how long one attempt may take: a server whose machine is busy
        # accepts at once and shakes hands when it has a core.
        ("grpc.min_reconnect_backoff_ms", CONNECT_WITHIN_MS),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Endpoints of one process must not share a connection's fate, nor its flow control.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]


def open_channel(
    address: str, message_bytes: int = DEFAULT_MESSAGE_BYTES, access: Access = PLAIN
) -> grpc.Channel:
    """A blocking channel to host:port. Raises InvalidArgument (BAD_TLS_FILE, TOKEN_IN_PLAINTEXT).

    The token travels with each call of a `Stub` that is given `access.metadata`.
    """
    credentials, options = _secured(address, message_bytes, access)
    if credentials is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, credentials, options=options)


def open_aio_channel(
    address: str, message_bytes: int = DEFAULT_MESSAGE_BYTES, access: Access = PLAIN
) -> grpc.aio.Channel:
    """An asyncio channel to host:port; otherwise as `open_channel`."""
    credentials, options = _secured(address, message_bytes, access)
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host, a name or an IP address."""
    bare = host.removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return bare == "localhost"


def _secured(
    address: str, message_bytes: int, access: Access
) -> tuple[grpc.ChannelCredentials | None, Options]:
    options = client_options(message_bytes)
    if access.tls is None:
        if access.token and not is_loopback(address.rpartition(":")[0]):
            raise InvalidArgument(
                "TOKEN_IN_PLAINTEXT",
                f"the token would travel to {address} unencrypted; name the CA that signs its "
                "certificate",
            )
        return None, options
    if access.tls.server_name:
        options.append(("grpc.ssl_target_name_override", access.tls.server_name))
    return channel_credentials(access.tls), options
