"""Settings of the gateway: section `gateway`, environment HEADRACE_GATEWAY_*."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from chassis.connections import DEFAULT_MESSAGE_BYTES, Access, access_of_files
from chassis.content_settings import ContentSettings
from chassis.errors import InvalidArgument
from chassis.protection import ProtectedSettings
from chassis.rest.settings import HttpSettings
from chassis.settings import CommaSeparated
from chassis.tls import ClientTls
from gateway.ingress.objective import Objectives
from gateway.policy.way import Way


class GatewaySettings(ContentSettings, HttpSettings, ProtectedSettings):
    """Each field: its unit, and why the default is what it is."""

    section: ClassVar[str] = "gateway"

    # Where clients connect; loopback until someone decides otherwise. Port 0 picks a free one.
    host: str = "127.0.0.1"
    port: int = Field(8001, ge=0, le=65535)
    # OIP over HTTP on the same host, where Triton has it; 0 picks a free port, -1 is off.
    http_port: int = Field(8000, ge=-1, le=65535)
    # Prometheus over HTTP on the same host; 0 picks a free port, -1 is off.
    metrics_port: int = Field(8002, ge=-1, le=65535)
    # GatewayAdmin and the inference service with control over it: whoever reaches it takes
    # endpoints out, loads models. Hence a host of its own, loopback unless a controller of rollouts
    # elsewhere has to ask; 0 picks a free port, -1 is off.
    admin_host: str = "127.0.0.1"
    admin_port: int = Field(8003, ge=-1, le=65535)
    # Whether every client of `port` may load and unload models and set traces and logs as well.
    # Where an auth file asks who they are, those with the role `control` may, on every port.
    allow_control: bool = False

    # Replicas that are always there, host:port.
    endpoints: CommaSeparated = ()
    # Registry in which replicas hold leases, redis://host:port/db; empty is none.
    registry: str = ""
    # TLS towards endpoints: PEM file of who signs their certificates; empty is plaintext.
    endpoint_ca: Path | None = None
    # The gateway's own certificate chain and key, for endpoints that ask for one.
    endpoint_cert: Path | None = None
    endpoint_key: Path | None = None
    # The name in the endpoints' certificates where their addresses do not say it: pods by IP.
    endpoint_server_name: str = ""
    # File with the bearer token that endpoints know the gateway by, read at start.
    endpoint_token_file: Path | None = None
    # Models to ask for on servers that cannot list theirs (without RepositoryIndex).
    models: CommaSeparated = ()

    # Requests that wait, over all models. More would be answered too late anyway.
    max_queue_requests: int = Field(4096, ge=1)
    # Bytes of tensors that wait, over all models.
    max_queue_bytes: int = Field(1024**3, ge=1)
    # Milliseconds from arrival to answer that a request may take, whatever its deadline: one number
    # for all, or one for each class of priority, as "1=50,2=100,3=1000". What could only be
    # answered later is refused at once, so that the others stay in time. Empty: deadlines alone
    # count. This is the one setting of scheduling that nothing can guess.
    latency_objective_ms: CommaSeparated = ()
    # What happens to a request that can only miss its class's objective: refused, or answered late,
    # behind all that can still be in time, while its own deadline lasts.
    timeout_action: Literal["reject", "delay"] = "reject"
    # Share of the replicas' time by tenant while several wait, as "gold=4,free=1"; others weigh 1.
    # A tenant is an identity, or what the parameter `tenant` says where nobody has one.
    tenant_weights: CommaSeparated = ()
    # Requests of a model that wait, by class, as "3=100"; the others have no bound of their own.
    max_queue_size: CommaSeparated = ()
    # Milliseconds that the first request of a batch waits for others at least, while there is time.
    # 0: batches form while endpoints are busy, which costs an idle system nothing.
    max_queue_delay_ms: float = Field(0.0, ge=0)
    # Rows of a batch that leave without waiting for more; empty: what the objective allows.
    preferred_batch_size: CommaSeparated = ()
    # Whether a batch goes to a second endpoint too once the first one takes three times as long as
    # expected. Costs a token of the retry budget; models must not mind computing twice.
    hedging: bool = True
    # Rows of a batch; 0 is the model's own bound, which this can only lower.
    max_batch_size: int = Field(0, ge=0)
    # Requests that one caller's stream may have unanswered or their answers unread; then no more
    # are read from it. Several full batches for each of a few replicas.
    max_stream_requests: int = Field(1024, ge=1)
    # Bytes of these requests and answers; then no more requests are read. One beyond passes.
    max_stream_bytes: int = Field(64 * 1024**2, ge=1)
    # Responses of decoupled requests that wait on one stream for their caller to read; then they
    # wait at the replica. More would only be thrown away when the caller leaves.
    max_stream_responses: int = Field(64, ge=1)
    # Whether requests that name no version go only to endpoints whose version began to serve at the
    # newest revision of its channel, so that nobody's answers ever go back to an older one. Meant
    # for versions that are loaded everywhere before they serve (docs/rollouts.md): with others, the
    # endpoint that loads first answers alone until the rest has loaded.
    monotonic_versions: bool = False
    # Levels of the parameter `priority`; 1 leaves first.
    priority_levels: int = Field(3, ge=1, le=1000)
    # Level of requests that name none, or one that is not: with one level above, one below.
    default_priority_level: int = Field(2, ge=1)
    # Sequences at once; each costs about a kilobyte here, and its state at a replica.
    max_sequences: int = Field(4096, ge=1)
    # Seconds without a request after which a sequence is forgotten: its client has gone.
    sequence_idle_s: float = Field(60.0, gt=0)
    # Batches in flight to one endpoint: the second covers the way there and back.
    max_inflight_batches: int = Field(2, ge=1)
    # Decoupled requests (any number of responses) in flight to one endpoint, beside its batches:
    # they last long, and how many a replica computes at once is its own affair.
    max_inflight_generations: int = Field(16, ge=1)

    # Seconds a request may take if the client names no deadline.
    default_timeout_s: float = Field(30.0, gt=0)
    # The same for all responses of a decoupled request together: text takes its time.
    generation_timeout_s: float = Field(300.0, gt=0)
    # Seconds an attempt may take before the batch goes elsewhere and the endpoint is ejected, or
    # the next response of a decoupled request may, before that request ends or goes elsewhere.
    # Above the longest batch; a hung replica is found by its health checks long before.
    attempt_timeout_s: float = Field(10.0, gt=0)
    # Attempts of a batch, the first one included.
    max_attempts: int = Field(3, ge=1)
    # Seconds a request waits for a known model that no endpoint serves: a replica's restart.
    unavailable_wait_s: float = Field(5.0, ge=0)

    # Seconds that loading a model may take at a replica, whatever its caller's deadline.
    load_timeout_s: float = Field(600.0, gt=0)

    # Seconds between two checks of a healthy endpoint.
    health_interval_s: float = Field(0.25, gt=0)
    # Seconds without any sign of life, from the start of a check, after which it is ejected. A
    # starved machine stalls a healthy process for most of a second.
    health_timeout_s: float = Field(1.5, gt=0)

    # Seconds after SIGTERM in which new requests are still taken: balancers need time to look away.
    drain_notice_s: float = Field(0.5, ge=0)
    # Seconds after SIGTERM in which everything taken may finish.
    drain_s: float = Field(20.0, ge=0)
    # Bytes of one message, received or sent.
    max_message_bytes: int = Field(DEFAULT_MESSAGE_BYTES, ge=1024)

    def objectives(self, way: Way) -> Objectives:
        """By class, with what is known of the way to endpoints.

        Raises InvalidArgument (BAD_SETTING).
        """
        return Objectives.of(self.latency_objective_ms, self.priority_levels, way)

    def weights(self) -> dict[str, float]:
        """By tenant. Raises InvalidArgument (BAD_SETTING)."""
        return {
            name: _number("tenant_weights", text, value)
            for text in self.tenant_weights
            for name, _, value in [text.rpartition("=")]
        }

    def class_bounds(self) -> dict[int, int]:
        """Requests that may wait, by class. Raises InvalidArgument (BAD_SETTING)."""
        return {
            int(_number("max_queue_size", text, name)): int(_number("max_queue_size", text, value))
            for text in self.max_queue_size
            for name, _, value in [text.rpartition("=")]
        }

    def preferred_sizes(self) -> list[int]:
        """Ascending. Raises InvalidArgument (BAD_SETTING)."""
        sizes = self.preferred_batch_size
        return sorted(int(_number("preferred_batch_size", text, text)) for text in sizes)

    def endpoint_access(self) -> Access:
        """How endpoints are reached. Raises InvalidArgument (BAD_SETTING, BAD_TOKEN_FILE)."""
        files = ClientTls(
            self.endpoint_ca, self.endpoint_cert, self.endpoint_key, self.endpoint_server_name
        )
        return access_of_files(files, self.endpoint_token_file, setting="gateway.endpoint")


def _number(setting: str, text: str, value: str) -> float:
    """`value`, a part of `text`, as a number above 0."""
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if 0 < number < float("inf"):
        return number
    raise InvalidArgument(
        "BAD_SETTING", f"setting gateway.{setting} has {text[:64]!r}; see docs/operating.md"
    )
