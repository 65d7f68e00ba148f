"""gRPC channel and server options: sizes, keepalive, and the defaults that surprise."""

from __future__ import annotations

from typing import Any

import grpc

# A SIGSTOPped peer stays hidden for 60 s beyond keepalive unless ping_timeout_ms is lowered too.
KEEPALIVE_MS = 10_000
PING_TIMEOUT_MS = 3_000
DEFAULT_MESSAGE_BYTES = 256 * 1024 * 1024

Options = list[tuple[str, Any]]


def server_options(message_bytes: int = DEFAULT_MESSAGE_BYTES) -> Options:
    """Options of every server; `message_bytes` bounds one received or sent message."""
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
        ("grpc.server_handshake_timeout_ms", 2_000),
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
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Endpoints of one process must not share a connection's fate, nor its flow control.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]


def open_channel(address: str, message_bytes: int = DEFAULT_MESSAGE_BYTES) -> grpc.Channel:
    """A blocking channel to host:port."""
    return grpc.insecure_channel(address, options=client_options(message_bytes))


def open_aio_channel(address: str, message_bytes: int = DEFAULT_MESSAGE_BYTES) -> grpc.aio.Channel:
    """An asyncio channel to host:port."""
    return grpc.aio.insecure_channel(address, options=client_options(message_bytes))
