"""What an operator can set about HTTP; the gateway's and the replica's settings have these."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from chassis.settings import Settings

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of one HTTP server, as `HttpSettings` explains them."""

    body_bytes: int
    json_bytes: int
    buffered_bytes: int
    header_bytes: int
    header_s: float
    body_s: float
    idle_s: int
    connections: int


class HttpSettings(Settings):
    """Fields of a service with an HTTP port; it says itself which port is the default."""

    # OIP over HTTP on the same host; 0 picks a free port, -1 is off.
    http_port: int = Field(-1, ge=-1, le=65535)
    # Bytes of JSON in one request or answer; larger tensors travel as binary data. JSON is read
    # in one go on the event loop: 4 MiB of ordinary numbers hold it for about 0.1 s, of single
    # digits or tiny texts for up to half a second.
    http_max_json_bytes: int = Field(4 * MIB, ge=KIB)
    # Bytes of bodies that are being received or answered, over all connections.
    http_max_buffered_bytes: int = Field(1024 * MIB, ge=KIB)
    # Bytes of a request line and its headers. Tokens are long, but not that long.
    http_max_header_bytes: int = Field(32 * KIB, ge=KIB)
    # Seconds in which a connection must bring a whole head of a request.
    http_header_timeout_s: float = Field(10.0, gt=0)
    # Seconds in which the body must follow, or a client must read what it is sent.
    http_body_timeout_s: float = Field(60.0, gt=0)
    # Seconds that an idle connection is kept; above the 60 s of common balancers, which otherwise
    # send a request into a connection that is just being closed.
    http_idle_timeout_s: int = Field(75, ge=1)
    # Connections at once; each may hold a socket and a head.
    http_max_connections: int = Field(1024, ge=1)

    def http_limits(self, message_bytes: int) -> HttpLimits:
        """The bounds; a body may be as long as a gRPC message, `message_bytes`."""
        return HttpLimits(
            body_bytes=message_bytes,
            json_bytes=self.http_max_json_bytes,
            buffered_bytes=self.http_max_buffered_bytes,
            header_bytes=self.http_max_header_bytes,
            header_s=self.http_header_timeout_s,
            body_s=self.http_body_timeout_s,
            idle_s=self.http_idle_timeout_s,
            connections=self.http_max_connections,
        )
