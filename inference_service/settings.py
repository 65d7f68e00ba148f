"""What an operator can set on a replica."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import NoDecode

from chassis.connections import DEFAULT_MESSAGE_BYTES, Access, access_of_files
from chassis.content_settings import ContentSettings
from chassis.errors import InvalidArgument
from chassis.names import checked_name
from chassis.protection import ProtectedSettings
from chassis.rest.settings import HttpSettings
from chassis.settings import CommaSeparated, nearest
from chassis.tls import ClientTls

DEFAULT_CHANNEL = "stable"
# As `precision.PRECISIONS`, which needs torch.
PRECISIONS = ("published", "fp32", "bf16", "fp16")
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Followed:
    """A model this replica serves and the channel that names its version."""

    model: str
    channel: str


Engine = Literal["published", "eager", "exported", "compiled", "auto"]
PrecisionName = Literal["published", "fp32", "bf16", "fp16"]


class ModelSettings(BaseModel):
    """How one model is computed; None is what the replica's setting of that name says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Engine | None = None
    precision: PrecisionName | None = None
    slots: int | None = Field(default=None, ge=1, le=2)
    cuda_graphs: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        for key in values if isinstance(values, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"{key!r} is unknown; {nearest(str(key), cls.model_fields)}")
        return values


def _object(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError('expected a JSON object such as {"clicks": {"slots": 1}}') from None


# Of models by name; the environment and flags write it as JSON.
PerModel = Annotated[dict[str, ModelSettings], NoDecode, BeforeValidator(_object)]


class ReplicaSettings(ContentSettings, HttpSettings, ProtectedSettings):
    """Section `replica`."""

    section: ClassVar[str] = "replica"

    # Shown in status and in the registry; default HOST-PORT.
    name: str = ""
    # Loopback by default: whoever reaches the port may ask for predictions.
    host: str = "127.0.0.1"
    # 0 picks a free port; the "serving" log line tells which.
    port: int = Field(8011, ge=0, le=65535)
    # URL of the model store: file:///path, redis://host:port/db or s3://bucket/prefix.
    store: str
    # Models to serve, each `model` or `model@channel`; the channel is `stable` unless named.
    models: CommaSeparated = ("digits",)
    # Channel whose version is loaded beside the one that serves while a rollout of it runs against
    # the channel followed; it flips only once that channel moves to it. "" loads none.
    candidate_channel: str = Field("canary", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,127})?$")
    # Whether every caller of the port may load and unload models and set traces and logs. A replica
    # has no port of its own for that; gateways that are to do it need it where there are no
    # identities.
    allow_control: bool = False
    # Stored versions of a model that RepositoryIndex names beside the loaded ones, newest first.
    # Enough to choose one to go back to; a line may hold many thousands.
    index_versions: int = Field(10, ge=0)
    # Seconds that a load asked for by RPC may take, whatever its caller's deadline.
    load_timeout_s: float = Field(600.0, gt=0)
    # "cpu" or "cuda:N".
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    # How forward passes are computed: as the version was published (its exported graph, or its
    # class installed here), "compiled" (a minute at the first load, needs g++), or "auto": what is
    # fastest at the first load. A program that cannot have it runs as published; status says why.
    engine: Engine = "published"
    # What floating tensors of the weights, inputs and states are cast to.
    precision: PrecisionName = "published"
    # Whether forward passes are recorded as CUDA graphs, one for each of a dozen batch sizes, at a
    # model's first load. Takes device memory for the largest pass once more. Off: which models gain
    # is to be measured.
    cuda_graphs: bool = False
    # `engine`, `precision`, `slots` and `cuda_graphs` of single models of `models`, by name.
    per_model: PerModel = {}
    # With engine "auto": the precisions it may choose from, beside `precision`, and seconds that
    # measuring may take, compiling included; nothing serves meanwhile.
    auto_precisions: CommaSeparated = ()
    auto_budget_s: float = Field(120.0, gt=0)
    # Where compiled programs are kept from one start to the next; whoever may write there runs code
    # here. Empty: a folder of this process's own.
    compile_dir: str = ""
    # Seconds that compiling a program may take; then it runs uncompiled.
    compile_timeout_s: float = Field(600.0, gt=0)
    # Threads of one forward pass; 0 leaves torch's own choice (a thread per core).
    threads: int = Field(0, ge=0)
    # Prometheus port; 0 picks a free one, -1 serves no metrics.
    metrics_port: int = Field(-1, ge=-1, le=65535)
    # redis:// URL of the registry that gateways read; empty registers nowhere.
    registry: str = ""
    # host:port that gateways are told; default HOST:PORT.
    advertise: str = ""
    # Seconds between two looks at a channel where the store sends no notification.
    poll_s: float = Field(1.0, gt=0)
    # Seconds that running batches get after SIGTERM.
    drain_s: float = Field(20.0, ge=0)
    # Least seconds between "not ready" and the end of streams; gateways look every 0.25 s.
    drain_notice_s: float = Field(0.6, ge=0)
    # Batches that may wait or run at once; beyond, RESOURCE_EXHAUSTED.
    max_queue_requests: int = Field(1024, ge=1)
    # Bytes of input tensors that may wait or run at once.
    max_queue_bytes: int = Field(512 * MIB, ge=1)
    # Requests of one stream that may be without their last answer; then no more are read from it.
    # Above what a gateway has in flight, below what one caller needs to fill the whole queue.
    max_stream_requests: int = Field(256, ge=1)
    # Seconds that a generative model may take for one whole answer; it then ends in
    # DEADLINE_EXCEEDED. Its version stays in its slot meanwhile, so a load waits this long at most.
    max_generation_s: float = Field(60.0, gt=0)
    # Responses of one generation that its caller has not taken; then it rests. One is held back
    # until it is known whether it is the last, the others cover the way.
    max_responses_ahead: int = Field(4, ge=2)
    # Bytes of one gRPC message.
    max_message_bytes: int = Field(DEFAULT_MESSAGE_BYTES, ge=1024)
    # Seconds for which a version that is held or loaded is leased in the store, renewed at a third,
    # so that `headrace store gc` leaves it alone; 0 takes no leases. Hosts' clocks may differ by
    # two thirds of it.
    lease_s: float = Field(300.0, ge=0, le=86_400)
    # Bytes of new tensors fetched before the standby version is given up; the rest streams in. So
    # do tensors of 1 MiB and more that lie on the CPU as published, which do not count here.
    staging_bytes: int = Field(256 * MIB, ge=0)
    # Directory in which the replicas of a machine keep blobs, so that the store is read once for
    # all of them; empty keeps none. For stores that are not on this machine's disks.
    cache_dir: Path | None = None
    # Bytes it holds; those not read for longest go. At least two versions of every model.
    cache_bytes: int = Field(8 * 1024 * MIB, ge=0)
    # Replicas to ask for blobs before the store: host:port, dns:host:port (all its addresses), or
    # "registry". All replicas of a store name the same. Needs `cache_dir` on each machine.
    peers: CommaSeparated = ()
    # Peers that one replica gives blobs to. Few keep its network free for requests; many make the
    # way from the store short.
    peer_fanout: int = Field(4, ge=1)
    # Seconds in which a peer must have given a blob; then another is asked.
    peer_timeout_s: float = Field(30.0, gt=0)
    # PEM files for reaching peers by TLS, and a file with the token of an identity with the role
    # control: whoever has it can read every weight.
    peer_ca: Path | None = None
    peer_cert: Path | None = None
    peer_key: Path | None = None
    peer_server_name: str = ""
    peer_token_file: Path | None = None
    # Weight slots of each model. 1 for models that do not fit twice: requests wait while a version
    # is installed, and going back to an earlier one is a load.
    slots: int = Field(2, ge=1, le=2)
    # With one slot: milliseconds that requests may wait for an installation. One that would take
    # longer is given up, and the version is refused.
    max_stall_ms: float = Field(1000.0, gt=0)
    # Whether loads read, copy and hash more slowly once they made more than one in a hundred of the
    # last minute's batches slow (against the p99 of those beside no load), and the bytes per second
    # they get at least.
    pace_staging: bool = True
    staging_floor_bytes_s: int = Field(32 * MIB, ge=MIB)
    # With `pace_staging`: how much nicer threads that load are than those that answer (Linux).
    staging_nice: int = Field(10, ge=0, le=19)
    # Whether a version may name a headrace.Model class installed here instead of bringing an
    # exported program. Its code runs in this process: switch it off where others write the store.
    allow_import_path: bool = True
    # PEM files of public keys. Where any is named, no version is loaded that none of them has
    # signed; read at start.
    trusted_keys: CommaSeparated = ()

    # Sequences of one model at once, each with its states on the device; beyond, new ones are
    # refused. Bounds memory: states of one row times max_batch_size times this.
    max_sequences: int = Field(1024, ge=1)
    # Seconds without a request after which a sequence is dropped. Longer than a gateway's, which
    # then is the one to tell its client.
    sequence_idle_s: float = Field(90.0, gt=0)
    # Seconds that a load waits at most for sequences on the version whose slot it needs; those
    # left are lost. 0 waits for none: the newest version counts more than any sequence.
    sequence_hold_s: float = Field(30.0, ge=0)

    def peer_access(self) -> Access:
        """How peers are reached. Raises InvalidArgument (BAD_SETTING, BAD_TOKEN_FILE)."""
        files = ClientTls(self.peer_ca, self.peer_cert, self.peer_key, self.peer_server_name)
        return access_of_files(files, self.peer_token_file, setting="replica.peer")

    def of_model(self, model: str) -> ModelSettings:
        """What holds for `model`, nothing left out."""
        own = self.per_model.get(model, ModelSettings()).model_dump(exclude_none=True)
        shared = {name: getattr(self, name) for name in ModelSettings.model_fields}
        return ModelSettings.model_validate(shared | own)

    def precisions(self, model: str) -> tuple[str, ...]:
        """What "auto" chooses from for `model`, its `precision` first.

        Raises InvalidArgument (BAD_SETTING).
        """
        unknown = sorted(set(self.auto_precisions) - set(PRECISIONS))
        if unknown:
            raise InvalidArgument(
                "BAD_SETTING",
                f"setting replica.auto_precisions: {unknown[0]!r} is none of "
                + ", ".join(PRECISIONS),
            )
        return tuple(dict.fromkeys((str(self.of_model(model).precision), *self.auto_precisions)))

    def followed(self) -> tuple[Followed, ...]:
        """The models and channels named. Raises InvalidArgument (BAD_SETTING, BAD_NAME)."""
        found = tuple(_followed(text) for text in self.models)
        names = [item.model for item in found]
        if not names or len(set(names)) != len(names):
            raise InvalidArgument(
                "BAD_SETTING",
                f"setting replica.models: expected one or more different models, got {names}",
            )
        for name in self.per_model:
            if name not in names:
                raise InvalidArgument(
                    "BAD_SETTING",
                    f"setting replica.per_model: model {name!r} is none of replica.models; "
                    + nearest(name, names),
                )
        return found


def _followed(text: str) -> Followed:
    model, _, channel = text.partition("@")
    return Followed(
        checked_name(model, what="model"),
        checked_name(channel or DEFAULT_CHANNEL, what="channel"),
    )
